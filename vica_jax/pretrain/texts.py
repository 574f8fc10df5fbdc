"""What the stages teach of a room, in their form and with their labels.

Captions are some of its frames, each a record of stage 1's form: the arrays are those
of ``collate_training``, of one shape for all rooms. Told records are dialogues,
descriptions and thoughts about its film, as rows of tokens that follow the film.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vica_jax.data.conversation import SYSTEM
from vica_jax.data.example import Example, collate_training
from vica_jax.data.media import Images
from vica_jax.data.record import make_example, tokenize_turns
from vica_jax.data.settings import DataSettings
from vica_jax.data.shapes import BatchShape
from vica_jax.data.tokenizer import Tokenizer
from vica_jax.layout import VisualLayout
from vica_jax.typing import Batch
from vica_jax.world.captions import caption_frame, see
from vica_jax.world.interview import tell
from vica_jax.world.records import make_record
from vica_jax.world.room import Room
from vica_jax.world.scene import SceneError

if TYPE_CHECKING:
    from vica_jax.pretrain.rooms import FilmedRoom

TEXT = 192  # tokens of a record at most
DATA = DataSettings(mixture="made while training")


def caption_batch(
    room: "FilmedRoom",
    layout: VisualLayout,
    tokenizer: Tokenizer,
    count: int,
    rng: np.random.Generator,
) -> Batch:
    """``count`` frames of a room with a caption each.

    Raises:
      SceneError: fewer frames have a caption that fits.
    """
    found: list[Example] = []
    for frame in map(int, rng.permutation(len(room.rgb))):
        example = caption_example(room, frame, layout, tokenizer, rng)
        if sum(map(len, example.chunks)) <= TEXT:
            found.append(example)
        if len(found) == count:
            return collate_training(found, layout, caption_shape(found[0], layout))
    raise SceneError(
        f"{room.scene.name}: {len(found)} of its frames have a caption of at most "
        f"{TEXT} tokens, and {count} are asked for"
    )


def caption_example(
    room: "FilmedRoom",
    frame: int,
    layout: VisualLayout,
    tokenizer: Tokenizer,
    rng: np.random.Generator,
) -> Example:
    """One frame as stage 1's data has it."""
    view = see(room.ids[frame], len(room.scene.boxes))
    caption = caption_frame(room.scene, view, room.walk.positions[frame], rng)
    images = Images(images=(Image.fromarray(room.rgb[frame]),))

    def read(record: Any, settings: DataSettings) -> Images:
        return images

    return make_example(
        make_record([caption], image="frame.png"),
        tokenizer=tokenizer,
        layout=layout,
        settings=DATA,
        read=read,
    )


def caption_shape(example: Example, layout: VisualLayout) -> BatchShape:
    """The shape of all captions whose picture has this one's size."""
    text = BatchShape(length=example.visual_tokens(layout) + TEXT, targets=TEXT)
    return example.shape(layout).union(text)


def told_rows(
    room: "FilmedRoom", tokenizer: Tokenizer, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """``count`` records about a room's film, of different kinds.

    Returns:
      tokens behind the film, int32 ``[count,TEXT]``, and at each the next one where
      that is a label of the stages, else -1.

    Raises:
      SceneError: fewer have at most TEXT tokens.
    """
    told = tell(Room(room.scene, room.hidden), room.questions, rng, thoughts=1)
    kinds = [turns for _, turns in told if turns is not None]
    tokens = np.zeros((count, TEXT), np.int32)
    taught = np.full((count, TEXT), -1, np.int32)
    row = 0
    for kind in map(int, rng.permutation(len(kinds))):
        said = make_record(kinds[kind], video="film.mp4")["conversations"]
        texts = [SYSTEM, *(one["value"] for one in said)]
        roles = ["system", *["user", "assistant"] * (len(said) // 2)]
        turns = zip(roles, texts, strict=True)
        (_, ids), (_, learned) = tokenize_turns(tokenizer, turns)
        if len(ids) > TEXT:
            continue
        tokens[row, : len(ids)] = ids
        taught[row, : len(ids) - 1] = np.where(learned, ids, -1)[1:]
        row += 1
        if row == count:
            return tokens, taught
    raise SceneError(
        f"{room.scene.name}: {row} records about its film have at most {TEXT} tokens, "
        f"and {count} are asked for"
    )
