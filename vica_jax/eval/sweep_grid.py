"""What a sweep runs: token ratios, frame counts, time instruction on or off.

The papers probe little of it. ViCA's has the time instruction at 64 frames and 128
frames without it (sections 4.5.1 and 4.5.2, tables 5 and 6; 32 frames are not in it).
ViCA2's names the triplet (N_hiera, S_stage, s_pool) and one value of it, (32, 4, 2)
(section 3.3), and scores no other; its README says that a search was beyond reach.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vica_jax.errors import InputError
from vica_jax.layout import VisualLayout

Ratio = tuple[int, int, int]  # N_hiera, S_stage, s_pool

# The checkpoint's own ratio, whatever the number of frames: published, every second
# frame goes to Hiera, so that 128 frames are (64, 4, 2).
OWN = "own"
TOKEN_RATIOS: Mapping[str, tuple[Ratio | None, ...]] = {
    OWN: (None,),
    "paper": ((32, 4, 2),),
    # Ours: one number of the paper's is another, and stage 3 pooled to as many tokens.
    # At the published sizes and 64 frames (32, 4, 1) passes the context length, and
    # stage 3 needs a projector that was trained on it.
    "around_paper": (
        (32, 4, 2),
        (8, 4, 2),
        (16, 4, 2),
        (64, 4, 2),
        (32, 4, 4),
        (32, 4, 1),
        (32, 3, 4),
    ),
}
TIMES: Mapping[str, bool] = {"off": False, "on": True}
UNBOUNDED = 1 << 62


class SweepError(InputError):
    """A grid that cannot be."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One row's settings; ``token_ratio`` None is the checkpoint's own."""

    num_frames: int
    token_ratio: Ratio | None = None
    time_instruction: bool = False

    @property
    def name(self) -> str:
        """What its folder is called, such as ``frames-64_ratio-32-4-2_time-off``."""
        parts = [f"frames-{self.num_frames}"]
        if self.token_ratio is not None:
            parts.append("-".join(map(str, ("ratio", *self.token_ratio))))
        parts.append(f"time-{'on' if self.time_instruction else 'off'}")
        return "_".join(parts)


def make_grid(
    token_ratios: Sequence[Ratio | None],
    num_frames: Sequence[int],
    time_instruction: Sequence[bool],
) -> tuple[Point, ...]:
    """Every combination: ratios in order, for each the frames, for each the times."""
    return tuple(
        Point(num_frames=frames, token_ratio=ratio, time_instruction=time)
        for ratio in token_ratios
        for frames in num_frames
        for time in time_instruction
    )


# -------------------------------------------------------------------- what is written
def parse_token_ratios(text: str) -> tuple[Ratio | None, ...]:
    """``"own;32,4,2;paper"``: triplets and names of ``TOKEN_RATIOS`` between ``;``.

    Raises:
      SweepError: something else, or the same one twice.
    """
    found: list[Ratio | None] = []
    for part in text.split(";"):
        name = part.strip()
        found += TOKEN_RATIOS[name] if name in TOKEN_RATIOS else [_triplet(name, text)]
    _check_unlike("token_ratios", text, found)
    return tuple(found)


def _triplet(part: str, text: str) -> Ratio:
    numbers = [number.strip() for number in part.split(",")]
    if len(numbers) != 3 or not all(_is_positive(number) for number in numbers):
        raise SweepError(
            f"--token_ratios={text}: {part!r} is neither N_hiera,S_stage,s_pool such "
            f"as 32,4,2 nor one of {', '.join(TOKEN_RATIOS)} (several: between ;)"
        )
    num_hiera, stage, pool = map(int, numbers)
    return num_hiera, stage, pool


def parse_num_frames(parts: Sequence[str]) -> tuple[int, ...]:
    """``["64", "32"]`` as numbers. Raises SweepError as ``parse_token_ratios``."""
    text = ",".join(parts)
    if not parts or not all(_is_positive(part.strip()) for part in parts):
        raise SweepError(
            f"--num_frames={text}: give positive numbers such as 64,32,128"
        )
    found = [int(part) for part in parts]
    _check_unlike("num_frames", text, found)
    return tuple(found)


def parse_times(parts: Sequence[str]) -> tuple[bool, ...]:
    """``["off", "on"]`` as truth values. Raises as ``parse_token_ratios``."""
    text = ",".join(parts)
    names = [part.strip() for part in parts]
    if not names or not set(names) <= set(TIMES):
        raise SweepError(f"--time_instruction={text}: give off, on, or off,on")
    _check_unlike("time_instruction", text, names)
    return tuple(TIMES[name] for name in names)


def _is_positive(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) <= 10**6


def _check_unlike(flag: str, text: str, values: Sequence[object]) -> None:
    twice = [value for value in dict.fromkeys(values) if values.count(value) > 1]
    if twice:
        value = OWN if twice[0] is None else twice[0]
        raise SweepError(f"--{flag}={text}: {value} is named twice")


# ------------------------------------------------------------------------------ tokens
def lay_out(point: Point, layout: VisualLayout) -> VisualLayout:
    """The visual layout of a row, which may well pass the context length.

    Raises:
      LayoutError: the ratio does not go with the frames or with this model.
    """
    if point.token_ratio is None:
        return layout
    free = replace(layout, context_length=UNBOUNDED)
    free = free.with_token_ratio(*point.token_ratio, num_frames=point.num_frames)
    return replace(free, context_length=layout.context_length)
