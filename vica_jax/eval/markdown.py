"""report.md and compare.md as lines of Markdown (GitHub's tables)."""

from collections.abc import Iterable, Sequence
from typing import Any

from vica_jax.eval import bootstrap
from vica_jax.eval.compare import Comparison, Difference, flatten
from vica_jax.eval.figures import title_of
from vica_jax.eval.items import NOT_RECORDED
from vica_jax.eval.problems import FIRST_FEW, Reason
from vica_jax.eval.published import SHOWN, published_models, read_published
from vica_jax.eval.results import Results
from vica_jax.eval.rows import Interval, Row
from vica_jax.eval.workdir import BLACK_FRAMES

NOTHING = "–"  # noqa: RUF001  a dash where there is no number
MOST_REASONS = 20
MOST_TEXT = 300  # characters of a cell

COLUMNS = {
    "asked": "questions that were asked",
    "answered": "those with an answer",
    "official": "score of record, percent, official rules: accuracy for choices, mean "
    "relative accuracy (MRA:.5:.95:.05) for numbers; an unanswered question is 0",
    "95% interval": "of the official score: whole videos resampled with replacement, "
    "percentiles 2.5 and 97.5 of {resamples:,} resamples, seed {seed}; none where all "
    "questions are about one video; rough where videos are few, and without width "
    "where all scores are alike",
    "answered only": "the official score over the answered questions alone; a type "
    "without any is left out of its task",
    "lenient": "official rules after a forgiving reading: number words, units, (B), "
    "an option's text; unanswered is 0",
    "Spatial-MLLM": "that evaluation's rules for the same answers; unanswered is 0",
    "exact": "official score of the answer by exact scoring (most probable letter; "
    "number decoded as a decimal); a missing one is 0",
    "confidence": "mean probability of the exact answers",
    "ECE": "expected calibration error of that probability, ten bins, against: the "
    "exact answer is the truth (same letter, same number)",
}
MEASURES = {
    "EM": "score of record, percent: the answer as it is stands among the references; "
    "an unanswered question is 0",
    "95% interval": COLUMNS["95% interval"],
    "EM-R": "refined exact match: cleaned answers that are equal or lie in each other",
    "CIDEr, BLEU, ROUGE-L": "caption measures times 100, without tokenizer and "
    "lower-casing; an unanswered question is an empty text",
    "METEOR": "only where its jar is given",
}


# ------------------------------------------------------------------------------ pieces
def cell(value: Any, most: int = MOST_TEXT) -> str:
    """Text for a table: one line, nothing in it read as Markdown or HTML."""
    text = " ".join(str(value).split())
    text = text if len(text) <= most else f"{text[: most - 3]}..."
    for mark in "\\`*[]<>|~":
        text = text.replace(mark, f"\\{mark}")
    return text


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table whose first ``left`` columns are text, the others numbers."""
    align = [":--" if place < left else "--:" for place in range(len(header))]
    lines = [header, align, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def share(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def span(interval: Interval) -> str:
    return NOTHING if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _first(names: Sequence[str], total: int) -> str:
    return cell(", ".join(names) + (", ..." if total > len(names) else ""))


# -------------------------------------------------------------------------- report.md
def describe(results: Results, *, torn: int = 0, blind: str = "") -> str:
    """report.md. ``torn`` lines were cut short: said where answers are lacking.

    ``blind`` is the section on blind baselines, if there is one.
    """
    benchmark, overall = results.benchmark, results.overall
    title = title_of(benchmark.name, benchmark.subset)
    answered = sum(item.answered for item in results.items)
    lacking = len(results.items) - answered
    kind = "macro average of the tasks below"
    if len(results.tasks) == 1:
        kind = f"{overall.metric} over all questions"
    head = f"**{percent(overall.score)}**"
    if overall.interval:
        head += f" (95% interval {span(overall.interval)})"
    subset = f", subset {benchmark.subset}" if benchmark.subset else ""
    missing = f"**{lacking:,} unanswered, counted as 0**" if lacking else "0 unanswered"
    black = ""
    if results.recipe.get(BLACK_FRAMES):
        black = "  \n**No video was shown: every frame was black.**"
    parts = [
        f"# {title}",
        f"{head}: {kind}.  \n{count(len(results.items), 'question')} about "
        f"{count(len(benchmark.videos), 'video')}: {answered:,} answered, {missing}; "
        f"{count(len(benchmark.refused), 'row')} refused.{black}",
        f"Benchmark {benchmark.name}{subset}, annotations {cell(benchmark.file)}, "
        f"revision (sha256) `{benchmark.revision}`.",
        "## Recipe",
        table(
            ["setting", "value"], [list(map(cell, row)) for row in _recipe(results)], 2
        ),
        "## Scores",
        _texts_table(results) if results.scanqa else _score_table(results),
        "![scores per task](scores.png)",
        *_groups(results),
        "### What the columns mean",
        _legend(results),
        *_published(results),
        *filter(None, [blind]),
        "## Problems",
        *_problems(results, torn),
    ]
    return "\n\n".join(parts) + "\n"


def _recipe(results: Results) -> list[tuple[str, str]]:
    return flatten(results.recipe) or [("(none recorded)", "")]


def _score_table(results: Results) -> str:
    spatial = results.benchmark.name == "vsibench"
    header = ["task", "asked", "answered", "official", "95% interval"]
    header += ["answered only", "lenient", *["Spatial-MLLM"] * spatial]
    header += ["exact", "confidence", "ECE"]

    def line(row: Row, name: str, bold: bool = False) -> list[str]:
        score = percent(row.score)
        return [
            name,
            f"{row.asked:,}",
            f"{row.answered:,}",
            f"**{score}**" if bold else score,
            span(row.interval),
            percent(row.answered_score),
            percent(row.lenient),
            *[percent(row.spatial_mllm)] * spatial,
            percent(row.exact),
            share(row.confidence),
            share(row.ece),
        ]

    types = {row.name: row for row in results.types}
    lines = []
    for row in results.tasks:
        lines.append(line(row, row.name))
        parts = [types[name] for name in types if name in row.types]
        lines += [line(part, f"· {part.name}") for part in parts if part is not row]
    if len(results.tasks) > 1:
        lines.append(line(results.overall, "**overall (macro)**", bold=True))
        lines.append(line(results.micro, "all questions (micro)"))
    return table(header, lines)


def _texts_table(results: Results) -> str:
    names = [name for name in results.scanqa["all"] if name != "count"]
    rows = []
    for label, scores in results.scanqa.items():
        interval = span(results.overall.interval) if label == "all" else NOTHING
        numbers = [percent(scores[name]) for name in names]
        rows.append(
            [f"{label} questions", f"{scores['count']:,}", numbers[0], interval]
        )
        rows[-1] += numbers[1:]
    return table(["", "n", names[0], "95% interval", *names[1:]], rows)


def _groups(results: Results) -> list[str]:
    if not results.groups:
        return []
    names = {"choice": "choices (acc)", "number": "numbers (mra)", "all": "all"}
    spatial = any("spatial_mllm_macro" in row for row in results.groups.values())
    header = ["kind of question", "official macro", "official micro"]
    header += ["Spatial-MLLM macro", "Spatial-MLLM micro"] * spatial
    keys = ["macro", "micro", *["spatial_mllm_macro", "spatial_mllm_micro"] * spatial]
    rows = [
        [names[kind], *[percent(row.get(key)) for key in keys]]
        for kind, row in results.groups.items()
    ]
    return [table(header, rows)]


def _legend(results: Results) -> str:
    meanings = MEASURES if results.scanqa else COLUMNS
    lines = []
    for name, text in meanings.items():
        if name == "Spatial-MLLM" and results.benchmark.name != "vsibench":
            continue
        text = text.format(resamples=results.resamples, seed=bootstrap.SEED)
        lines.append(f"- {name}: {text}")
    if len(results.tasks) > 1:
        lines.append(
            "- overall (macro): mean over tasks; all questions (micro): mean over "
            "questions"
        )
    return "\n".join(lines)


def _published(results: Results) -> list[str]:
    videos = (item.question.video for item in results.items)
    benchmark = results.benchmark
    models = published_models(benchmark.name, benchmark.subset, videos)
    if not models:
        return []
    tasks = read_published()["tasks"]
    ours = {row.name: row.score for row in results.rows}
    run = [percent(ours.get(name)) for name in [*tasks, "overall"]]
    rows = [["**this run**", *run]]
    for name in [*SHOWN, *[name for name in models if name not in SHOWN]]:
        model = models[name]
        scores = [_as_published(model.per_task[task]) for task in tasks]
        rows.append([name, *scores, _as_published(model.overall)])
    return [
        "## Published models",
        table(["model", *tasks, "overall"], rows),
        f"Source: {read_published()['source']}. Not measured here.",
    ]


def _as_published(score: float) -> str:
    """Most have one decimal."""
    return f"{score:.1f}" if round(score, 1) == score else f"{score:.2f}"


def _problems(results: Results, torn: int) -> list[str]:
    parts: list[str] = []
    lacking = sum(reason.count for reason in results.unanswered)
    if lacking:
        total = len(results.items)
        rows = [
            [row.name, f"{row.unanswered:,}", f"{row.asked:,}"]
            for row in results.tasks
            if row.unanswered
        ]
        parts += [
            f"### Unanswered: {lacking:,} of {total:,}",
            table(["task", "unanswered", "asked"], rows),
            _reasons(results.unanswered),
        ]
        unrecorded = any(reason.text == NOT_RECORDED for reason in results.unanswered)
        if torn and unrecorded:
            parts.append(f"{count(torn, 'answer line')} cut short and not read.")
    if results.refused:
        refused = sum(reason.count for reason in results.refused)
        parts += [
            f"### Refused rows: {refused:,}, never asked and in no score",
            _reasons(results.refused),
        ]
    if conflicts := results.answers.conflicts:
        parts += [
            f"### Conflicting answers: {count(len(conflicts), 'question')}",
            "More than one line answers these and they disagree; the first counts: "
            f"{_first(conflicts[:FIRST_FEW], len(conflicts))}",
        ]
    if results.cut or results.remarks:
        parts += ["### Remarks on answers", _reasons([*results.cut, *results.remarks])]
    if results.notes:
        parts.append("### How to read the scores")
        parts.append("\n".join(f"- {cell(note, 1000)}" for note in results.notes))
    return parts or ["None: every question has an answer and no row was refused."]


def _reasons(reasons: Sequence[Reason]) -> str:
    rows = [
        [
            f"{reason.count:,}",
            cell(reason.text),
            cell(", ".join(f"{n} {c:,}" for n, c in reason.types.items()), 400),
            _first(reason.ids, reason.count),
            _first(reason.videos, reason.num_videos) or NOTHING,
        ]
        for reason in reasons[:MOST_REASONS]
    ]
    lines = table(["count", "what", "question types", "ids", "videos"], rows, 5)
    if rest := reasons[MOST_REASONS:]:
        lines += f"\n\nand {count(len(rest), 'other wording')} "
        lines += f"({sum(reason.count for reason in rest):,}): all are in results.json."
    return lines


# -------------------------------------------------------------------------- compare.md
def describe_comparison(comparison: Comparison, names: tuple[str, str]) -> str:
    """compare.md; ``names`` are those of this run and of the other."""
    this, other, overall = comparison.this, comparison.other, comparison.overall
    benchmark = this.benchmark
    title = title_of(benchmark.name, benchmark.subset)
    interval = f" (95% interval {span(overall.interval)})" if overall.interval else ""
    parts = [
        f"# {title}: {cell(names[0])} against {cell(names[1])}",
        f"**{overall.difference:+.2f}**{interval}: this run {percent(overall.this)}, "
        f"the other {percent(overall.other)}, {overall.name}, on "
        f"{count(comparison.questions, 'question')} that both runs were given.",
        _difference_table(comparison),
        "![both runs and their differences](compare.png)",
        "\n".join(
            [
                "- difference: this run minus the other, points of the official score; "
                "95% interval from resampling whole videos, "
                f"{comparison.resamples:,} resamples, seed {bootstrap.SEED}",
                "- wins, losses, ties: questions on which this run scored more, less, "
                "the same",
                "- p: exact two-sided sign test of wins against losses (McNemar's for "
                "scores of 0 and 1); it takes questions as independent, which those of "
                "one video are not: where it disagrees with the interval, trust the "
                "interval. Of twenty tasks without a difference one has p < 0.05",
            ]
        ),
        "## Unanswered",
        *_one_sided(comparison, names),
        "## Recipes",
        _recipes(comparison),
    ]
    if this.benchmark.revision != other.benchmark.revision:
        parts.append(
            "The annotation files differ, the compared questions do not: "
            f"`{this.benchmark.revision}` and `{other.benchmark.revision}`."
        )
    return "\n\n".join(parts) + "\n"


def _difference_table(comparison: Comparison) -> str:
    def line(row: Difference, name: str) -> list[str]:
        signs = [f"{number:,}" for number in (row.wins, row.losses, row.ties)]
        signs.append(f"{row.p_value:.3g}")
        if row.name == "overall":  # questions' signs say nothing of a macro average
            signs = [NOTHING] * len(signs)
        return [
            name,
            f"{row.asked:,}",
            percent(row.this),
            percent(row.other),
            f"{row.difference:+.2f}",
            span(row.interval),
            *signs,
        ]

    header = ["task", "n", "this run", "the other", "difference", "95% interval"]
    header += ["wins", "losses", "ties", "p"]
    names = {"overall": "**overall (macro)**", "micro": "all questions (micro)"}
    rows = [line(row, names.get(row.name, row.name)) for row in comparison.rows]
    return table(header, rows)


def _one_sided(comparison: Comparison, names: tuple[str, str]) -> list[str]:
    pairs = comparison.pairs
    neither = sum(not a.answered and not b.answered for a, b in pairs)
    mine, theirs = comparison.micro.one_sided
    lines = [
        f"- answered by this run alone, 0 for the other: {mine:,}",
        f"- answered by the other alone, 0 for this run: {theirs:,}",
        f"- answered by neither, 0 for both: {neither:,}",
    ]
    sides = (comparison.only_this, comparison.only_other)
    for name, left in zip(names, sides, strict=True):
        if left:
            lines.append(
                f"- asked in {cell(name)} alone and not compared: {len(left):,} "
                f"({_first(left[:FIRST_FEW], len(left))})"
            )
    return ["\n".join(lines)]


def _recipes(comparison: Comparison) -> str:
    if not comparison.recipe:
        return "The two recipes are the same."
    rows = [list(map(cell, row)) for row in comparison.recipe]
    return table(["setting", "this run", "the other"], rows, 3)
