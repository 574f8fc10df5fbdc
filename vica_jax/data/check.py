"""What a mixture holds and what of it cannot be used, before a device is touched.

Every record is looked at, and every file that one names: is it there, does its header
say an image or a video. A sample of the files (or all) is opened as training opens
them. Tokens are counted by training's own code: exact where a record's files were
opened, else with the sizes, frame counts and rates that their headers state. Damage
behind a header shows only where a file is opened.

The report in words, JSON and a picture: ``data/check_report``. Imports no jax.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from vica_jax.data.example import Example, Medium
from vica_jax.data.headers import FileFacts, Kind, look_at, reason_of
from vica_jax.data.media import Images, Media, Video
from vica_jax.data.mixture import Mixture, Source
from vica_jax.data.pixels import ImageError, open_image
from vica_jax.data.record import (
    check_record,
    make_example,
    media_paths,
    modality,
    read_media,
)
from vica_jax.data.settings import DataSettings
from vica_jax.data.tokenizer import Tokenizer, TokenizerError
from vica_jax.data.video import VideoClip, sample_frames
from vica_jax.errors import InputError
from vica_jax.layout import VisualLayout

T = TypeVar("T")
R = TypeVar("R")

MODALITIES = ("text", "image", "images", "video")
HEADER_THREADS = 16  # headers wait for disks and networks
AT_A_TIME = 4096  # files handed to the threads at once
BROKEN = -1  # tokens of a record that cannot be used


@dataclass(frozen=True, kw_only=True)
class RecordProblem:
    """A record that cannot be used although its files are there, and why."""

    source: str
    index: int  # in the mixture
    id: str
    reason: str


@dataclass(kw_only=True)
class Findings:
    """Everything that was found; arrays have one entry per record of the mixture.

    ``source int32[n]`` and ``kind int8[n]`` count in ``sources`` and MODALITIES (-1:
    neither). ``text``, ``visual`` and ``targets`` (supervised ones within the context)
    are tokens ``int64[n]``; ``text`` is BROKEN for records that cannot be used.
    ``exact bool[n]``: all files of the record were opened, or it has none.
    """

    sources: tuple[Source, ...]
    excluded: tuple[str, ...]
    layout: VisualLayout
    settings: DataSettings
    source: np.ndarray
    kind: np.ndarray
    text: np.ndarray
    visual: np.ndarray
    targets: np.ndarray
    exact: np.ndarray
    files: dict[Path, FileFacts] = field(default_factory=dict)
    named_by: dict[Path, list[int]] = field(default_factory=dict)  # record indices
    problems: list[RecordProblem] = field(default_factory=list)

    @property
    def usable(self) -> np.ndarray:
        return self.text != BROKEN

    @property
    def tokens(self) -> np.ndarray:
        """Length of each usable record before any cut."""
        return (self.text + self.visual)[self.usable]


def check_mixture(
    mixture: Mixture,
    *,
    tokenizer: Tokenizer,
    layout: VisualLayout,
    settings: DataSettings,
    sample: int | None = 200,
    seed: int = 0,
    progress: bool = False,
) -> Findings:
    """Look at every record and file of a mixture, open ``sample`` files (None: all).

    The sample is drawn from all sources and kinds of records by turns. ``layout`` says
    how many tokens media become, and the context length. Progress bars show on
    terminals only.

    Raises:
      TokenizerError: not a Qwen2 tokenizer; what is wrong with data is in the result.
    """
    bounds = np.cumsum([source.taken for source in mixture.sources])
    count = len(mixture)
    found = Findings(
        sources=mixture.sources,
        excluded=mixture.excluded,
        layout=layout,
        settings=settings,
        source=np.searchsorted(bounds, np.arange(count), "right").astype(np.int32),
        kind=np.full(count, -1, np.int8),
        text=np.full(count, BROKEN, np.int64),
        visual=np.zeros(count, np.int64),
        targets=np.zeros(count, np.int64),
        exact=np.zeros(count, bool),
    )
    checker = _Checker(mixture, tokenizer, found)
    sound = [
        i for i in _bar(range(count), count, "records", progress) if checker.read(i)
    ]
    paths = list(found.named_by)
    looked = _in_threads(checker.look, paths, HEADER_THREADS)
    for path, facts in _bar(looked, len(paths), "files", progress):
        found.files[path] = facts
    sound = [i for i in sound if not checker.blocked(i)]
    chosen = _choose(found, checker.paths, sound, sample, seed)
    threads = min(max(settings.num_workers, 1), os.cpu_count() or 1)
    opened = _in_threads(checker.open, chosen, threads)
    for index, measured in _bar(opened, len(chosen), "opened", progress):
        checker.note_opened(index, measured)
    rest = [i for i in sound if not checker.blocked(i) and not found.exact[i]]
    for index in _bar(rest, len(rest), "tokens", progress):
        checker.measure(index)
    found.problems.sort(key=lambda problem: problem.index)
    return found


# ---------------------------------------------------------------------- a record
@dataclass(frozen=True, kw_only=True)
class _Opened:
    """What became of opening a record: its example's tokens, or what is wrong."""

    tokens: tuple[int, int, int] | None = None
    files: dict[Path, FileFacts] = field(default_factory=dict)
    problem: str = ""  # of the record, not of a file


class _Checker:
    """Reads, opens and measures records of one mixture into its ``Findings``."""

    def __init__(self, mixture: Mixture, tokenizer: Tokenizer, found: Findings):
        self.mixture, self.tokenizer, self.found = mixture, tokenizer, found
        self.layout, self.settings = found.layout, found.settings
        # Its images are of one patch: text is counted without resizing anything.
        side = self.layout.siglip_patch_size
        self.bare = replace(
            self.layout,
            siglip_image_size=side,
            hiera_image_size=None,
            grid_pinpoints_wh=((side, side),),
        )
        self.kinds: dict[Path, Kind] = {}
        self.paths: list[tuple[Path, ...]] = [()] * len(mixture)

    def read(self, index: int) -> bool:
        """Note a record's kind, files or faults; whether it is sound so far."""
        value = self.mixture[index].value
        try:
            kind = modality(value)
            self.found.kind[index] = MODALITIES.index(kind)
            check_record(value, time_instruction=self.settings.time_instruction)
            self.paths[index] = tuple(media_paths(value, self.settings))
            for path in self.paths[index]:
                use = "video" if kind == "video" else "image"
                if self.kinds.setdefault(path, use) != use:
                    raise InputError(f"{path} is named as an image and as a video")
                self.found.named_by.setdefault(path, []).append(index)
        except InputError as error:
            self.note(index, value, error)
            return False
        return True

    def look(self, path: Path) -> tuple[Path, FileFacts]:
        return path, look_at(path, self.kinds[path], self.settings.folder_fps)

    def blocked(self, index: int) -> bool:
        """Whether a file of the record cannot be used."""
        return any(self.found.files[path].problem for path in self.paths[index])

    def note(self, index: int, value: Mapping[str, Any], error: InputError) -> None:
        """A fault of the record itself."""
        name = value.get("id", "")
        reason = str(error).removeprefix(f"record {name!r}: ")
        self.found.problems.append(
            RecordProblem(
                source=self.found.sources[self.found.source[index]].name,
                index=index,
                id=str(name),
                reason=" ".join(reason.removeprefix("record: ").split()),
            )
        )

    def open(self, index: int) -> tuple[int, _Opened]:
        """Make the example as training makes it; runs in a thread."""
        value = self.mixture[index].value
        paths, seen = self.paths[index], []

        def read(value: Mapping[str, Any], settings: DataSettings) -> Media | None:
            seen.append(read_media(value, settings))
            return seen[-1]

        try:
            example = make_example(
                value,
                tokenizer=self.tokenizer,
                layout=self.layout,
                settings=self.settings,
                read=read,
            )
        except TokenizerError:
            raise
        except InputError as error:
            if seen:  # the files are fine: their sizes or number are not
                return index, _Opened(problem=str(error))
            return index, _Opened(files=self._find_broken(paths, error))
        facts = dict(zip(paths, self._facts(seen[0], paths), strict=True))
        return index, _Opened(tokens=self._count(example), files=facts)

    def _find_broken(
        self, paths: Sequence[Path], error: InputError
    ) -> dict[Path, FileFacts]:
        """Which of a record's files made it fail."""
        broken = {}
        for path in paths:
            if len(paths) > 1:
                try:
                    open_image(path)
                    continue
                except ImageError as own:
                    error = own
            old = self.found.files[path]
            broken[path] = replace(old, problem=reason_of(error, path), opened=True)
        return broken

    def _facts(self, media: Media | None, paths: Sequence[Path]) -> Iterator[FileFacts]:
        """What opened media say of their files."""
        if isinstance(media, Video):
            clip, kind = media.clip, self.found.files[paths[0]].kind
            height, width = clip.frames.shape[1:3]
            yield FileFacts(
                kind=kind,
                size_wh=(width, height),
                frames=clip.total_frames,
                fps=clip.avg_fps,
                opened=True,
            )
        elif isinstance(media, Images):
            for image in media.images:
                yield FileFacts(kind="image", size_wh=image.size, opened=True)

    def note_opened(self, index: int, opened: _Opened) -> None:
        self.found.files.update(opened.files)
        if opened.problem:
            value = self.mixture[index].value
            self.note(index, value, InputError(opened.problem))
            # Not measured again: the same fault would be found twice.
            self.found.exact[index] = True
        if opened.tokens is not None:
            self._put(index, opened.tokens)

    def measure(self, index: int) -> None:
        """Count a record's tokens from what is known of its files."""
        value = self.mixture[index].value
        facts = [self.found.files[path] for path in self.paths[index]]
        try:
            self._put(index, self._count(self._sketch(value, facts)))
        except TokenizerError:
            raise
        except InputError as error:
            self.note(index, value, error)

    def _put(self, index: int, tokens: tuple[int, int, int]) -> None:
        found = self.found
        found.text[index], found.visual[index], found.targets[index] = tokens
        found.exact[index] = all(found.files[p].opened for p in self.paths[index])

    def _count(self, example: Example) -> tuple[int, int, int]:
        """Text, visual and supervised tokens."""
        text, visual = sum(map(len, example.chunks)), example.visual_tokens(self.layout)
        return text, visual, len(example.targets(self.layout)[0])

    def _sketch(self, value: Mapping[str, Any], facts: Sequence[FileFacts]) -> Example:
        """The example with media of the right sizes and no pixels.

        Raises:
          LayoutError: media that become too many tokens. VideoError: a rate or frame
            count that nothing can be sampled from.
        """
        if not facts:
            media, shown = [], None
        elif facts[0].kind == "image":
            mode = self.settings.images if len(facts) == 1 else "padded"
            media = [_blank(mode, 1, fact.size_wh) for fact in facts]
            shown = Images(tuple(Image.new("RGB", (1, 1)) for _ in facts))
        else:
            plan = sample_frames(
                facts[0].frames,
                facts[0].fps,
                num_frames=self.settings.num_frames,
                fps=self.settings.fps,
            )
            self.layout.check_video(len(plan.indices))
            media = [_blank("video", len(plan.indices), facts[0].size_wh)]
            pixel = np.zeros((1, 1, 1, 3), np.uint8)
            shown = Video(VideoClip(**vars(plan), frames=pixel, reader="header"))
        words = make_example(
            value,
            tokenizer=self.tokenizer,
            layout=self.bare,
            settings=self.settings,
            read=lambda value, settings: shown,
        )
        return replace(words, media=media)


def _blank(kind: Any, frames: int, size_wh: tuple[int, int]) -> Medium:
    pixels = np.broadcast_to(np.uint8(0), (frames, 1, 1, 3))
    return Medium(kind=kind, siglip=pixels, raw=None, image_wh=size_wh)


def _choose(
    found: Findings,
    paths: Sequence[tuple[Path, ...]],
    sound: Iterable[int],
    sample: int | None,
    seed: int,
) -> list[int]:
    """Records that together name ``sample`` files, or every file, each about once.

    Sources and kinds take turns, in each the records stand in a random order.
    """
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index in sound:
        groups[int(found.source[index]), int(found.kind[index])].append(index)
    random = np.random.default_rng([seed, len(found.text)])
    turns = [iter(random.permutation(group).tolist()) for group in groups.values()]
    chosen: list[int] = []
    covered: set[Path] = set()
    while turns and (sample is None or len(covered) < sample):
        turns.append(turn := turns.pop(0))
        for index in turn:
            named = paths[index]
            if not covered.issuperset(named):
                covered.update(named)
                chosen.append(index)
                break
        else:
            turns.pop()
    return chosen


def _in_threads(
    function: Callable[[T], R], items: Sequence[T], threads: int
) -> Iterator[R]:
    """Results in the order of ``items``; not all of them wait in a queue at once."""
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(items), AT_A_TIME):
            yield from pool.map(function, items[start : start + AT_A_TIME])


def _bar(items: Iterable[T], total: int, what: str, progress: bool) -> Iterable[T]:
    off = None if progress else True  # None: shown on terminals only
    return tqdm(items, total=total, desc=what, disable=off, delay=0.5)
