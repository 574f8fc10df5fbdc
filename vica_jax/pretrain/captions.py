"""Pictures with a caption, as the stages' trainer shapes them.

A room gives some of its frames, each a record of stage 1's form; the arrays are those
of ``collate_training``, of one shape for all rooms.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vica_jax.data.example import Example, collate_training
from vica_jax.data.media import Images
from vica_jax.data.record import make_example
from vica_jax.data.settings import DataSettings
from vica_jax.data.shapes import BatchShape
from vica_jax.data.tokenizer import Tokenizer
from vica_jax.layout import VisualLayout
from vica_jax.typing import Batch
from vica_jax.world.captions import caption_frame, see
from vica_jax.world.records import make_record
from vica_jax.world.scene import SceneError

if TYPE_CHECKING:
    from vica_jax.pretrain.rooms import Room

TEXT = 192  # tokens of a record at most
DATA = DataSettings(mixture="made while training")


def caption_batch(
    room: "Room",
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
    room: "Room",
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
