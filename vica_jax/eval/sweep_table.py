"""What a sweep found: sweep.md, sweep.json and sweep.png in its workdir.

sweep.json keeps what the machine decides under ``timing``; the rest is the same
whenever the same answers are summed up. The PNG is ``sweep_figure``'s.
"""

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vica_jax.eval import bootstrap
from vica_jax.eval.compare import Difference, compare
from vica_jax.eval.figures import LABELS, title_of
from vica_jax.eval.markdown import NOTHING, cell, count, percent, span, table
from vica_jax.eval.question import Benchmark
from vica_jax.eval.results import Results
from vica_jax.eval.sweep_grid import Point, Ratio
from vica_jax.eval.timing import STEPS, Timing, read_timing
from vica_jax.eval.workdir import TIMING
from vica_jax.files import replacing, write_text

FORMAT = 1  # of sweep.json
FILES = ("sweep.md", "sweep.json", "sweep.png")
DONE, NOT_RUN, FAILED, WAITING = "done", "not run", "failed", "waiting"
PROBES = (
    "The papers' own probes of ViCA-7B on VSI-Bench (ViCA, tables 5 and 6), overall: "
    "60.6 with 64 frames, 59.9 with the time instruction, 58.5 with 128 frames. ViCA2 "
    "has one token ratio, (32, 4, 2): 56.8."
)


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One setting and what became of it.

    ``tokens`` are a video's, of SigLIP and of Hiera, and ``ratio`` the resolved
    (N_hiera, S_stage, s_pool); None where the ratio does not go with the frames or the
    model. ``reason`` says why it was not run or failed. ``difference`` is that of the
    overall score to the first row that was run, by the same questions.
    """

    point: Point
    status: str = WAITING
    reason: str | None = None
    ratio: Ratio | None = None
    tokens: tuple[int, int] | None = None
    results: Results | None = None
    difference: Difference | None = None
    timing: Timing | None = None

    @property
    def total_tokens(self) -> int | None:
        return None if self.tokens is None else sum(self.tokens)

    @property
    def ratio_text(self) -> str:
        ratio = self.ratio or self.point.token_ratio
        return NOTHING if ratio is None else f"({', '.join(map(str, ratio))})"

    @property
    def time_text(self) -> str:
        return "on" if self.point.time_instruction else "off"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """All rows of a sweep in the order of its grid."""

    benchmark: Benchmark
    rows: tuple[SweepRow, ...]

    @property
    def done(self) -> tuple[SweepRow, ...]:
        return tuple(row for row in self.rows if row.results is not None)

    @property
    def questions(self) -> Mapping[str, int]:
        """How many there are about each video."""
        return Counter(question.video for question in self.benchmark.questions)

    @property
    def title(self) -> str:
        return title_of(self.benchmark.name, self.benchmark.subset)

    def replaced(self, place: int, row: SweepRow) -> "Sweep":
        rows = [*self.rows[:place], row, *self.rows[place + 1 :]]
        return replace(self, rows=tuple(rows))

    def finished(self, place: int, workdir: Path, results: Results) -> "Sweep":
        """With the results, timing and difference of a row that was run."""
        row = self.rows[place]
        first = next(iter(self.done), None)
        difference = None
        if first is not None and first.point != row.point:
            assert first.results is not None
            difference = compare(results, first.results).overall
        timing = read_timing(workdir / row.point.name / TIMING, self.questions)
        row = replace(
            row, status=DONE, results=results, difference=difference, timing=timing
        )
        return self.replaced(place, row)


# ------------------------------------------------------------------------------- files
def write_sweep(workdir: Path, sweep: Sweep) -> None:
    """Write ``FILES``. Raises OSError where they cannot be written."""
    from vica_jax.eval.sweep_figure import draw_sweep  # matplotlib takes a second

    text = json.dumps(to_json(sweep), indent=1, allow_nan=False) + "\n"
    write_text(workdir / "sweep.json", text)
    write_text(workdir / "sweep.md", describe(sweep))
    with replacing(workdir / "sweep.png") as partial:
        partial.write_bytes(draw_sweep(sweep))


# -------------------------------------------------------------------------------- JSON
def to_json(sweep: Sweep) -> dict[str, Any]:
    """sweep.json; scores are percent."""
    benchmark = sweep.benchmark
    first = next(iter(sweep.done), None)
    return {
        "format": FORMAT,
        "benchmark": {**benchmark.header(), "videos": len(benchmark.videos)},
        "unit": "percent",
        "intervals": {
            "level": bootstrap.LEVEL,
            "resamples": bootstrap.RESAMPLES,
            "seed": bootstrap.SEED,
            "clusters": "video",
        },
        "compared_with": first.point.name if first else None,
        "recipe": shared_recipe(sweep),
        "rows": [_row_json(row) for row in sweep.rows],
        "timing": {
            row.point.name: asdict(row.timing) for row in sweep.rows if row.timing
        },
    }


def _row_json(row: SweepRow) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": row.point.name,
        "num_frames": row.point.num_frames,
        "token_ratio": row.ratio or row.point.token_ratio,
        "time_instruction": row.point.time_instruction,
        "visual_tokens": None,
        "status": row.status,
        "reason": row.reason,
    }
    if row.tokens is not None:
        siglip, hiera = row.tokens
        facts["visual_tokens"] = {
            "siglip": siglip,
            "hiera": hiera,
            "total": siglip + hiera,
        }
    if row.results is not None:
        results, overall = row.results, row.results.overall
        facts |= {
            "prompt_tokens": prompt_tokens(results),
            "asked": overall.asked,
            "answered": overall.answered,
            "unanswered": {r.text: r.count for r in results.unanswered},
            "overall": {"score": overall.score, "interval": overall.interval},
            "tasks": {task.name: task.score for task in results.tasks},
            "difference": None,
        }
    if row.difference is not None:
        facts["difference"] = {
            "score": row.difference.difference,
            "interval": row.difference.interval,
            "p_value": row.difference.p_value,
            "wins": row.difference.wins,
            "losses": row.difference.losses,
            "ties": row.difference.ties,
        }
    return facts


def shared_recipe(sweep: Sweep) -> dict[str, Any]:
    """The settings that are the same in every row that was run."""
    recipes = [row.results.recipe for row in sweep.rows if row.results is not None]
    if not recipes:
        return {}
    return {
        key: value
        for key, value in recipes[0].items()
        if all(key in other and other[key] == value for other in recipes[1:])
    }


def prompt_tokens(results: Results) -> float | None:
    """The median question's prompt, video and text, in tokens."""
    lengths = [
        item.answer.prompt_tokens
        for item in results.items
        if item.answer is not None and item.answer.prompt_tokens is not None
    ]
    return statistics.median(lengths) if lengths else None


# ---------------------------------------------------------------------------- sweep.md
def describe(sweep: Sweep) -> str:
    """sweep.md: rows, tasks, what was not run and why, what the columns mean."""
    benchmark = sweep.benchmark
    counted = Counter(row.status for row in sweep.rows)
    said = ", ".join(f"{counted[status]} {status}" for status in counted)
    parts = [
        f"# Sweep: {sweep.title}",
        f"{count(len(sweep.rows), 'row')}: {said}.  \n"
        f"{count(len(benchmark.questions), 'question')} about "
        f"{count(len(benchmark.videos), 'video')}, {len(benchmark.refused)} refused. "
        f"Annotations: {cell(benchmark.file)}, sha256 `{benchmark.revision}`.",
    ]
    if sweep.done:
        parts += [
            table(*_main_table(sweep), left=3),
            "![accuracy against visual tokens and seconds](sweep.png)",
            "## Per task",
            table(*_task_table(sweep)),
            *_lacking(sweep),
        ]
    for status, title in ((NOT_RUN, "Not run"), (FAILED, "Failed"), (WAITING, "")):
        rows = [row for row in sweep.rows if row.status == status]
        if rows and title:
            parts += [f"## {title}", table(*_reasons(rows), left=2)]
        elif rows:
            parts.append(f"{count(len(rows), 'row')} still to come.")
    if sweep.done:
        parts += ["## What the columns mean", _legend(sweep)]
    if (benchmark.name, benchmark.subset) == ("vsibench", "full"):
        parts.append(PROBES)
    return "\n\n".join(parts) + "\n"


def _main_table(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    header = ["row", "token ratio", "time", "frames", "SigLIP", "Hiera", "visual"]
    header += ["prompt", "overall", "95% interval", "difference", "95% interval"]
    header += ["answered", "s/video", "s/question"]
    lines = []
    for row in sweep.done:
        assert row.results is not None and row.tokens is not None
        overall, gap, timing = row.results.overall, row.difference, row.timing
        prompt = prompt_tokens(row.results)
        lines.append(
            [
                f"[{row.point.name}]({row.point.name}/report.md)",
                row.ratio_text,
                row.time_text,
                f"{row.point.num_frames}",
                *[f"{tokens:,}" for tokens in (*row.tokens, sum(row.tokens))],
                NOTHING if prompt is None else f"{prompt:,.0f}",
                f"**{percent(overall.score)}**",
                span(overall.interval),
                NOTHING if gap is None else f"{gap.difference:+.2f}",
                NOTHING if gap is None else span(gap.interval),
                f"{overall.answered:,}/{overall.asked:,}",
                *_seconds(timing),
            ]
        )
    return header, lines


def _seconds(timing: Timing | None) -> tuple[str, str]:
    if timing is None:
        return NOTHING, NOTHING
    mark = "\\*" if timing.with_compilation else ""
    return f"{timing.per_video:.2f}{mark}", f"{timing.per_question:.3f}{mark}"


def _task_table(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    names: dict[str, None] = {}
    for row in sweep.done:
        assert row.results is not None
        names |= dict.fromkeys(task.name for task in row.results.tasks)
    lines = []
    for row in sweep.done:
        assert row.results is not None
        scores = {task.name: task.score for task in row.results.tasks}
        lines.append([row.point.name, *[percent(scores.get(name)) for name in names]])
    return ["row", *[LABELS.get(n, n).replace("\n", " ") for n in names]], lines


def _lacking(sweep: Sweep) -> list[str]:
    """Why questions have no answer, by row; nothing where all have."""
    lines = [
        f"- {row.point.name}: {reason.count:,}: {cell(reason.text)}"
        for row in sweep.done
        if row.results is not None
        for reason in row.results.unanswered
    ]
    return ["### Unanswered, counted as 0", "\n".join(lines)] if lines else []


def _reasons(rows: Sequence[SweepRow]) -> tuple[list[str], list[list[str]]]:
    lines = [
        [
            row.point.name,
            cell(row.reason or ""),
            NOTHING if row.total_tokens is None else f"{row.total_tokens:,}",
        ]
        for row in rows
    ]
    return ["row", "why", "visual tokens"], lines


def _legend(sweep: Sweep) -> str:
    first, results = sweep.done[0].point.name, sweep.done[0].results
    assert results is not None
    timings = [row.timing for row in sweep.done if row.timing]
    selection = results.recipe.get("frames", {}).get("kind", "uniform")
    lines = {
        "token ratio": "(N_hiera, S_stage, s_pool): frames given to Hiera, the stage "
        "its features are from, the stride they are pooled by",
        "time": "the time instruction: the video's length and every frame's second, "
        "stated in the prompt",
        "SigLIP, Hiera, visual": "tokens of a video, newlines included"
        + ("" if selection == "uniform" else ", of one that fills all its frames"),
        "prompt": "tokens of the median question's prompt, visual and text",
        "overall": "official score, percent, an unanswered question counting 0; all "
        "columns of it stand in the row's own report",
        "95% interval": f"whole videos resampled, {bootstrap.RESAMPLES:,} times",
        "difference": f"overall score less that of {first}, paired by question",
        "s/video": f"{', '.join(STEPS[:-1])} and {STEPS[-1]} all its questions, in "
        "seconds on the device: the median video",
        "s/question": "that divided by the video's number of questions",
    }
    text = "\n".join(f"- **{name}**: {what}" for name, what in lines.items())
    if timings:
        videos = [timing.videos for timing in timings]
        many = f"{min(videos)}" + (
            "" if min(videos) == max(videos) else f" to {max(videos)}"
        )
        text += (
            "\n\nSeconds are of the machine at the time. The first video of a row is "
            "left out, because programs are compiled for it, and so are videos whose "
            f"questions were not asked in one go: medians over {many} video(s) a row."
        )
        if any(timing.with_compilation for timing in timings):
            text += " \\*: one video only, its compilation counted."
    return text


# ---------------------------------------------------------------------------- printing
def sweep_lines(sweep: Sweep) -> list[str]:
    """The rows as plain text, one line each."""
    wide = max(len(row.point.name) for row in sweep.rows)
    lines = [
        f"{'row':<{wide}}  {'visual':>8}  {'overall':>7}  {'95% interval':>16}  "
        f"{'difference':>10}  {'answered':>11}  {'s/video':>8}  {'s/question':>10}"
    ]
    for row in sweep.rows:
        tokens = "" if row.total_tokens is None else f"{row.total_tokens:,}"
        line = f"{row.point.name:<{wide}}  {tokens:>8}  "
        if row.results is None:
            line += f"{row.status}" + (f": {row.reason}" if row.reason else "")
        else:
            overall, gap, timing = row.results.overall, row.difference, row.timing
            answered = f"{overall.answered:,}/{overall.asked:,}"
            line += (
                f"{overall.score:7.2f}  {span(overall.interval):>16}  "
                f"{'' if gap is None else format(gap.difference, '+.2f'):>10}  "
                f"{answered:>11}  "
                f"{'' if timing is None else format(timing.per_video, '.2f'):>8}  "
                f"{'' if timing is None else format(timing.per_question, '.3f'):>10}"
            )
        lines.append(line.rstrip())
    return lines
