"""A LLaVA record to a training example: media, turns, token ids, supervised tokens.

    {"id": ..., "image": path | [path, ...] or "video": path, or neither,
     "conversations": [{"from": "human", "value": "<image>\\n..."},
                       {"from": "gpt", "value": "..."}, ...]}

Source: the reference's ``LazySupervisedDataset``, ``preprocess_multimodal`` and
``preprocess_qwen``; ids and labels are the recorded ones. Kept from it:

* One ``<image>`` in a turn moves to its start; several stay where they are.
* A video's time instruction goes into the first user turn, and the tag with it.
* A first turn of the assistant is left out. ``role``/``content`` may stand in place of
  ``from``/``value``. Turns of media lose the noise word of VideoInstruct-100k.
* Every newline, ``<|im_start|>`` and ``<|im_end|>`` is a label, in every turn.

Deviations, where the reference fails later, learns from another sample's media, or
says nothing: roles must alternate; each medium needs exactly one tag (only a video with
a time instruction may come without); image and video together are refused; a leading
system turn replaces the usual system text; keys that are null count as absent; the
record is never written to (the reference puts the time instruction into it, so that the
second epoch has it twice).
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from vica_jax.data.conversation import (
    IMAGE_TAG,
    SYSTEM,
    always_supervised,
    tokenize_chunks,
    training_turn,
)
from vica_jax.data.example import Example, Medium, image_medium
from vica_jax.data.frame_cache import FrameCache, VideoPixels, video_pixels
from vica_jax.data.media import Images, Media, Video
from vica_jax.data.pixels import open_image
from vica_jax.data.settings import DataSettings
from vica_jax.data.tokenizer import Tokenizer
from vica_jax.data.video import read_video, time_instruction
from vica_jax.errors import InputError
from vica_jax.layout import VisualLayout

IMAGE_ID = -200  # the reference's id at <image>
IGNORED = -100  # and its label of what is not learned
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
UNREAD_MEDIA = ("images", "videos", "audio", "audios")  # a slip, or not supported
NOISE = "QA_GT_caption_based_noisy"  # VideoInstruct-100k; the reference deletes it

Modality = Literal["text", "image", "images", "video"]
MediaReader = Callable[[Mapping[str, Any], DataSettings], Media | VideoPixels | None]


class RecordError(InputError):
    """A record that cannot become an example; the message says which part and why."""


class _Turn(NamedTuple):
    role: str
    text: str


# ------------------------------------------------------------------ what it says
def modality(record: Mapping[str, Any]) -> Modality:
    """What a record shows. ``images`` are several; a list of one is an ``image``.

    Raises:
      RecordError: image and video at once, or a value that is no path.
    """
    paths = _paths(record)
    if not paths:
        return "text"
    if record.get("video") is not None:
        return "video"
    return "image" if len(paths) == 1 else "images"


def media_paths(record: Mapping[str, Any], settings: DataSettings) -> list[Path]:
    """Files (or a video's folder of frames) in their order, under the settings' roots.

    Absolute paths stay as they are.

    Raises:
      RecordError: as ``modality``.
    """
    video = record.get("video") is not None
    folder = Path(settings.video_folder if video else settings.image_folder)
    return [folder / path for path in _paths(record)]


def check_record(record: Mapping[str, Any], *, time_instruction: bool = True) -> None:
    """What is wrong with a record as far as it shows without opening its media.

    Raises:
      RecordError: no conversations; a turn without a known role or without text; a
        wrong order of roles; no words at all; more or fewer ``<image>`` tags than
        media; image and video at once; media that are no paths or under unread keys.
    """
    _turns(record, time_instruction=time_instruction)


def count_words(record: Mapping[str, Any]) -> int:
    """The length by which an epoch is grouped: words of all turns, negative for text.

    Source: the reference's ``modality_lengths``. Never 0: what has no words (and what
    is no proper record) counts as one, so that it has a place in the epoch, where it
    is found out.
    """
    turns = record.get("conversations")
    words = 0
    for turn in turns if isinstance(turns, list) else ():
        text = _said(turn)[1]
        words += len(text.split()) if isinstance(text, str) else 0
    seen = record.get("image") is not None or record.get("video") is not None
    return max(words, 1) if seen else -max(words, 1)


# ------------------------------------------------------------------ to an example
def read_media(record: Mapping[str, Any], settings: DataSettings) -> Media | None:
    """Open a record's media; None for text alone.

    Raises:
      RecordError: as ``modality``, or the system refuses. VideoError, ImageError:
        missing or unreadable.
    """
    paths = media_paths(record, settings)
    try:
        if modality(record) == "video":
            (path,) = paths
            clip = read_video(
                path,
                num_frames=settings.num_frames,
                fps=settings.fps,
                source_fps=settings.folder_fps if os.path.isdir(path) else None,
            )
            return Video(clip)
        return Images(tuple(open_image(path) for path in paths)) if paths else None
    except OSError as error:  # a folder that may not be read, a name too long
        raise RecordError(
            f"{_name(record)}: cannot read its media ({error.strerror})"
        ) from None


def read_cached(
    record: Mapping[str, Any],
    settings: DataSettings,
    layout: VisualLayout,
    cache: FrameCache,
) -> Media | VideoPixels | None:
    """As ``read_media``, but a video comes from ``cache`` or goes there."""
    if modality(record) != "video":
        return read_media(record, settings)
    (path,) = media_paths(record, settings)
    names = ("num_frames", "fps", "folder_fps")
    how = {name: getattr(settings, name) for name in names}
    key = cache.key(path, layout, **how)
    found = None if key is None else cache.get(key)
    if found is not None:
        return found
    media = read_media(record, settings)
    assert isinstance(media, Video)
    pixels = video_pixels(media.clip, layout)
    if key is not None:
        cache.put(key, pixels)
    return pixels


def make_example(
    record: Mapping[str, Any],
    *,
    tokenizer: Tokenizer,
    layout: VisualLayout,
    settings: DataSettings,
    read: MediaReader = read_media,
) -> Example:
    """The tokens of a record with its media between them and what is supervised.

    Supervised are the assistant's turns whole, header included, and everywhere the ids
    of ``always_supervised``. The context length is not looked at: batches are cut.
    ``read`` opens the media: another reader may bring frames of its own.

    Raises:
      RecordError: as ``check_record``. VideoError, ImageError, LayoutError: its media
        are missing, unreadable or too large. TokenizerError: not a Qwen2 tokenizer.
    """
    turns = _turns(record, time_instruction=settings.time_instruction)
    opened = read(record, settings)
    media: list[Medium] = []
    if isinstance(opened, Video):
        opened = video_pixels(opened.clip, layout)
    if isinstance(opened, VideoPixels):
        media = [opened.medium]
        if settings.time_instruction:
            turns = _instruct(turns, time_instruction(opened.sample))
    elif isinstance(opened, Images):
        mode = settings.images if len(opened.images) == 1 else "padded"
        media = [image_medium(image, layout, mode) for image in opened.images]
    if len(media) != len(_paths(record)):
        raise RecordError(
            f"{_name(record)}: {len(_paths(record))} media are named, {len(media)} read"
        )
    if media:
        turns = [turn._replace(text=_place_tag(turn.text)) for turn in turns]
    chunks, supervised = tokenize_turns(tokenizer, turns)
    return Example(chunks=chunks, media=media, supervised=supervised)


def tokenize_turns(
    tokenizer: Tokenizer, turns: Iterable[tuple[str, str]]
) -> tuple[list[list[int]], list[list[bool]]]:
    """Token ids of (role, text) turns, cut at each ``<image>`` tag, and which of them
    are supervised.

    Raises:
      TokenizerError: not a Qwen2 tokenizer.
    """
    always = always_supervised(tokenizer)
    chunks: list[list[int]] = [[]]
    supervised: list[list[bool]] = [[]]
    for role, text in turns:
        parts = tokenize_chunks(tokenizer, training_turn(role, text))
        for number, ids in enumerate(parts):
            if number:  # a medium stands between the parts of one turn
                chunks.append([])
                supervised.append([])
            learned = role == "assistant"
            chunks[-1] += ids
            supervised[-1] += [learned or token in always for token in ids]
    return chunks, supervised


def input_ids(example: Example) -> np.ndarray:
    """The reference's ``input_ids int64[n]``: -200 where a medium stands."""
    return _join(example.chunks, IMAGE_ID)


def labels(example: Example) -> np.ndarray:
    """The reference's ``labels int64[n]``: -100 where nothing is learned."""
    marks = example.supervised or [[False] * len(chunk) for chunk in example.chunks]
    chunks = [
        [token if mark else IGNORED for token, mark in zip(ids, row, strict=True)]
        for ids, row in zip(example.chunks, marks, strict=True)
    ]
    return _join(chunks, IGNORED)


def _join(chunks: Sequence[Sequence[int]], between: int) -> np.ndarray:
    joined = list(chunks[0])
    for chunk in chunks[1:]:
        joined += [between, *chunk]
    return np.array(joined, np.int64)


# ------------------------------------------------------------------ turns and tags
def _turns(record: Mapping[str, Any], *, time_instruction: bool) -> list[_Turn]:
    """The checked turns of a record, the system turn first."""
    name = _name(record)
    kind = modality(record)
    said = record.get("conversations")
    if said is None:
        raise RecordError(f"{name}: no conversations")
    if not isinstance(said, list) or not said:
        raise RecordError(
            f"{name}: conversations must be a list of turns, got "
            + ("an empty one" if said == [] else type(said).__name__)
        )
    turns = [_turn(name, place, turn) for place, turn in enumerate(said, 1)]
    if not any(turn.text.split() for turn in turns):
        raise RecordError(f"{name}: no words in its conversations")
    turns = _ordered(name, turns)
    tags = sum(turn.text.count(IMAGE_TAG) for turn in turns)
    media = len(_paths(record))
    told = kind == "video" and time_instruction and tags == 0
    if tags != media and not told:
        what = {"text": "media", "video": "video"}.get(kind, "image(s)")
        raise RecordError(
            f"{name}: {tags} {IMAGE_TAG} tag(s) but {media} {what}: write one tag for "
            "each, in a turn that is kept"
        )
    return turns


def _turn(name: str, place: int, turn: Any) -> _Turn:
    said, text = _said(turn)
    role = ROLES.get(said) if isinstance(said, str) else None
    if role is None:
        known = ", ".join(ROLES)
        raise RecordError(
            f"{name}: turn {place} is from {said!r:.60}: known roles are {known}"
        )
    if not isinstance(text, str):
        raise RecordError(
            f"{name}: the value of turn {place} must be text, got {type(text).__name__}"
        )
    return _Turn(role, text)


def _said(turn: Any) -> tuple[Any, Any]:
    """Role and text as they stand in the record, None where they do not."""
    if not isinstance(turn, Mapping):
        return None, None
    if "role" in turn and "content" in turn:
        return turn["role"], turn["content"]
    return turn.get("from"), turn.get("value")


def _ordered(name: str, turns: list[_Turn]) -> list[_Turn]:
    """System first, then user and assistant by turns; other system turns stay."""
    numbered = list(enumerate(turns, 1))
    if turns[0].role != "system":
        numbered.insert(0, (0, _Turn("system", SYSTEM)))
    spoken = [item for item in numbered if item[1].role != "system"]
    roles = [turn.role for _, turn in spoken]
    if roles[:1] == ["assistant"] and roles[1:3] == ["user", "assistant"]:
        numbered.remove(spoken.pop(0))  # an answer to nothing, as in the reference
    if not spoken:
        raise RecordError(f"{name}: its conversations hold no turn of human and gpt")
    for count, (place, turn) in enumerate(spoken):
        expected = ("user", "assistant")[count % 2]
        if turn.role != expected:
            raise RecordError(
                f"{name}: wrong role order: turn {place} is the {turn.role}'s where "
                f"the {expected}'s is due: human and gpt must take turns, human first"
            )
    return [turn for _, turn in numbered]


def _instruct(turns: list[_Turn], instruction: str) -> list[_Turn]:
    """Tag and time instruction before the first user turn; the tag's old place goes."""
    told, instructed = [], False
    for role, text in turns:
        plain = text.replace(IMAGE_TAG, "")
        if role == "user" and not instructed:
            instructed = True
            told.append(_Turn(role, f"{IMAGE_TAG}\n{instruction}\n{plain}"))
        else:
            told.append(_Turn(role, text if plain == text else plain.strip()))
    return told


def _place_tag(text: str) -> str:
    if text.count(IMAGE_TAG) == 1 and not text.startswith(IMAGE_TAG):
        text = f"{IMAGE_TAG}\n{text.replace(IMAGE_TAG, '').strip()}".strip()
    return text.replace(NOISE, "")


def _paths(record: Mapping[str, Any]) -> list[str]:
    """The paths of a record's media as written."""
    name = _name(record)
    given = {key: record.get(key) for key in ("image", "video")}
    given = {key: value for key, value in given.items() if value is not None}
    if len(given) == 2:
        raise RecordError(f"{name}: has image and video: one of them at a time")
    if unread := [key for key in UNREAD_MEDIA if record.get(key)]:
        raise RecordError(
            f"{name}: media under {unread[0]!r} are not read: name them as 'image' "
            "(a path or a list of paths) or 'video' (a path)"
        )
    for key, value in given.items():
        several = isinstance(value, list) and key == "image"
        paths: list[Any] = value if several else [value]
        if not paths or not all(map(_is_path, paths)):
            raise RecordError(
                f"{name}: {key} must be a path"
                + (" or a list of paths" if key == "image" else "")
                + f", got {value!r:.60}"
            )
        return paths
    return []


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _name(record: Mapping[str, Any]) -> str:
    return f"record {record['id']!r}" if "id" in record else "record"
