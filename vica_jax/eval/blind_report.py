"""A run beside the blind baselines (``blind``): differences as Markdown and JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vica_jax.eval.blind import GUESSERS, BlindError, Guesses, blind_results
from vica_jax.eval.bootstrap import RESAMPLES
from vica_jax.eval.compare import Comparison, Difference, compare
from vica_jax.eval.markdown import cell, percent, span, table
from vica_jax.eval.results import Results
from vica_jax.eval.rows import Row

TITLES = {
    "constant": "one answer for each question type: the most frequent letter, the "
    "constant with the best mean score (at least that of the median)",
    "by_name": "from the question's text and the answers in other scenes, type by type "
    "in the way that scores best, and never worse than `constant`",
}
NAMES = {"overall": "**overall (macro)**", "micro": "all questions (micro)"}


@dataclass(frozen=True, kw_only=True)
class BlindBaseline:
    """A baseline's guesses, its scores, and the run minus it."""

    guesses: Guesses
    results: Results
    comparison: Comparison

    @property
    def name(self) -> str:
        return self.guesses.name

    @property
    def rows(self) -> list[tuple[str, Row, Difference]]:
        """Name, the baseline's row and the run minus it: tasks, then the averages."""
        rows = zip(self.results.rows, self.comparison.rows, strict=True)
        return [(row.name, row, difference) for row, difference in rows]


def compare_blind(
    results: Results, *, resamples: int = RESAMPLES
) -> tuple[BlindBaseline, ...]:
    """A run against each blind baseline of its own questions.

    Raises:
      BlindError: the benchmark has none.
    """
    benchmark = results.benchmark
    if benchmark.name == "scanqa":
        raise BlindError("scanqa: free text has no blind baseline: leave out --blind")
    found = []
    for guess in GUESSERS.values():
        guesses = guess(benchmark.questions)
        blind = blind_results(benchmark, guesses, resamples=resamples)
        comparison = compare(results, blind, resamples=resamples)
        found.append(
            BlindBaseline(guesses=guesses, results=blind, comparison=comparison)
        )
    return tuple(found)


def verdict(difference: Difference) -> str:
    """Whether the run is above the baseline, by the interval of the difference."""
    if difference.interval is None:
        return "not known"
    low, high = difference.interval
    return "above" if low > 0 else "below" if high < 0 else "not told apart"


# --------------------------------------------------------------------------- Markdown
def describe_blind(results: Results) -> str:
    """The section of report.md on ``results.blind``."""
    baselines = results.blind
    header = ["task", "n", "this run"]
    for baseline in baselines:
        header += [f"`{baseline.name}`", "95% interval", "difference", "95% interval"]
    lines = [
        [NAMES.get(row.name, row.name), f"{row.asked:,}", percent(row.score)]
        for row in results.rows
    ]
    for baseline in baselines:
        for line, (_, row, difference) in zip(lines, baseline.rows, strict=True):
            line += [
                percent(row.score),
                span(row.interval),
                f"{difference.difference:+.2f}",
                span(difference.interval),
            ]
    parts = ["## Blind baselines", table(header, lines)]
    meanings = [
        f"- `{baseline.name}`: {TITLES[baseline.name]}. By the interval of the "
        f"difference {_told_apart(baseline)}"
        for baseline in baselines
    ]
    meanings.append(
        "- difference: this run minus the baseline; whole videos resampled, the "
        "baseline's answers kept. These are chosen on the same questions, in its favour"
    )
    parts.append("\n".join(meanings))
    rules = [
        [name, *[cell(b.guesses.rules.get(name, "")) for b in baselines]]
        for name in [row.name for row in results.types]
    ]
    parts.append(table(["question type", *[b.name for b in baselines]], rules, 3))
    return "\n\n".join(parts)


def _told_apart(baseline: BlindBaseline) -> str:
    """Which tasks are not above a baseline, and by how much."""
    parts = []
    for word, meaning in (
        ("not told apart", "not told apart from it"),
        ("below", "below it"),
        ("not known", "without an interval"),
    ):
        tasks = [row for row in baseline.comparison.tasks if verdict(row) == word]
        gaps = [
            f"{row.name} ({row.difference:+.2f}, {span(row.interval)})" for row in tasks
        ]
        if gaps:
            parts.append(f"{meaning}: {', '.join(gaps)}")
    return "; ".join(parts) or "every task is above it"


# ------------------------------------------------------------------------------- JSON
def blind_json(baselines: Sequence[BlindBaseline]) -> dict[str, Any]:
    """``blind`` of results.json, by the baseline's name."""
    return {baseline.name: _baseline_json(baseline) for baseline in baselines}


def _baseline_json(baseline: BlindBaseline) -> dict[str, Any]:
    rows = {
        name: {
            "score": row.score,
            "interval": row.interval,
            "this_run": difference.this,
            "difference": difference.difference,
            "difference_interval": difference.interval,
            "verdict": verdict(difference),
        }
        for name, row, difference in baseline.rows
    }
    return {"rules": dict(baseline.guesses.rules), "rows": rows}
