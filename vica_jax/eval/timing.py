"""What a run took: ``timing.jsonl``, a line per video, as typical seconds.

The first video of a start meets programs that are still to be compiled, and a resumed
run asks only the rest of a video's questions. Both say nothing of how fast a setting
is, so the file's first line and the videos that were not asked in one go are left out;
what compiles later (a batch of another size, another start) is left to the median.
"""

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STEPS = ("encode", "prefill", "ask")  # on the device, one after the other
BESIDE = (
    "read",
    "pixels",
    "cache",
    "wait",
)  # threads of the host, and waiting for them


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Medians over ``videos`` videos, in seconds.

    ``per_video`` is encoding, prefilling and asking all of a video's questions,
    ``per_question`` that divided by their number; ``steps`` are medians of each part.
    ``left_out`` counts lines that do not count; ``with_compilation``: there is one
    video only, so that its compilation counts too.
    """

    videos: int
    per_video: float
    per_question: float
    steps: Mapping[str, float] = field(default_factory=dict)
    left_out: int = 0
    with_compilation: bool = False


def read_timing(path: Path, questions: Mapping[str, int]) -> Timing | None:
    """The timing of a run; None where nothing was timed.

    ``questions`` are the benchmark's number of questions for each video.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return summarise_timing(text.splitlines(), questions)


def summarise_timing(
    lines: Iterable[str], questions: Mapping[str, int]
) -> Timing | None:
    """As ``read_timing``, from the file's lines. A line that is cut is left out."""
    rows = [_parse(line) for line in lines if line.strip()]
    timed = [row for row in rows if row is not None]
    # A video that was asked in one go twice had failures that were tried again.
    by_video: dict[str, Mapping[str, Any]] = {}
    for row in timed:
        if row["questions"] == questions.get(row["video"]):
            by_video.setdefault(row["video"], row)
    if not by_video:
        return None
    used = [row for row in by_video.values() if row is not timed[0]]
    with_compilation = not used
    used = used or list(by_video.values())
    return Timing(
        videos=len(used),
        per_video=_median(map(_total, used)),
        per_question=_median(_total(row) / row["questions"] for row in used),
        steps={
            step: _median(row[step] for row in used if step in row)
            for step in (*STEPS, *BESIDE)
            if any(step in row for row in used)
        },
        left_out=len(rows) - len(used),
        with_compilation=with_compilation,
    )


def _parse(line: str) -> Mapping[str, Any] | None:
    """A video's seconds; None for a cut line and a video that was not asked."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not {"video", "questions", *STEPS} <= row.keys():
        return None
    numbers = [row[name] for name in ("questions", *STEPS)]
    return row if all(isinstance(x, int | float) for x in numbers) else None


def _total(row: Mapping[str, Any]) -> float:
    return sum(row[step] for step in STEPS)


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 4)
