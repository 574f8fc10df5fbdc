"""scores.png and compare.png: bars per task, with 95% intervals.

Colours are Okabe and Ito's (2008), told apart by people who do not see all colours; the
bars of one group also stand in the order of the legend. Files carry no date and no
version of the program that drew them: equal scores make equal bytes.
"""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vica_jax.eval.compare import Comparison, Difference
from vica_jax.eval.published import SHOWN, published_models
from vica_jax.eval.results import Results
from vica_jax.eval.rows import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RUN = "#0072B2"  # blue: this run
OTHERS = ("#E69F00", "#009E73", "#CC79A7", "#BDBDBD", "#6F6F6F")
OTHER_RUN = OTHERS[0]
INTERVAL = "95% interval"
SIDES = ("this", "other")
TITLES = {"vsibench": "VSI-Bench", "vstibench": "VSTI-Bench", "scanqa": "ScanQA"}
LABELS = {
    "object_counting": "object\ncounting",
    "object_abs_distance": "absolute\ndistance",
    "object_size_estimation": "object\nsize",
    "room_size_estimation": "room\nsize",
    "object_rel_distance": "relative\ndistance",
    "object_rel_direction": "relative\ndirection",
    "route_planning": "route\nplanning",
    "obj_appearance_order": "appearance\norder",
    "obj_obj_relative_pos_nf": "object pair\nnear/far",
    "obj_obj_relative_pos_ud": "object pair\nup/down",
    "obj_obj_relative_pos_lr": "object pair\nleft/right",
    "camera_obj_rel_dist_v1": "camera-object\nrel. dist. v1",
    "camera_obj_rel_dist_v2": "camera-object\nrel. dist. v2",
    "camera_obj_rel_dist_v3": "camera-object\nrel. dist. v3",
    "camera_movement_direction": "camera\nmovement",
    "camera_obj_abs_dist": "camera-object\nabs. distance",
    "camera_displacement": "camera\ndisplacement",
    "camera_obj_dist_change": "camera-object\ndist. change",
    "overall": "overall",
}


def title_of(name: str, subset: str | None) -> str:
    return " ".join(filter(None, [TITLES[name], subset]))


def draw_scores(results: Results) -> bytes:
    """The PNG of scores.png: this run, beside published models where there are any.

    Tasks and their macro average; for ScanQA its measures instead of tasks.
    """
    benchmark = results.benchmark
    videos = (item.question.video for item in results.items)
    models = published_models(benchmark.name, benchmark.subset, videos)
    bars = {row.name: row.score for row in results.rows if row.name != "micro"}
    intervals = [row.interval for row in results.rows if row.name != "micro"]
    if results.scanqa:
        bars = {k: v for k, v in results.scanqa["all"].items() if k != "count"}
        intervals = [results.overall.interval, *[None] * (len(bars) - 1)]
    series = [Series("this run", RUN, bars)]
    for name, colour in zip(SHOWN, OTHERS, strict=True):
        if name in models:
            scores = {**models[name].per_task, "overall": models[name].overall}
            series.append(Series(name, colour, scores))
    answered = sum(item.answered for item in results.items)
    title = title_of(benchmark.name, benchmark.subset)
    if benchmark.subset == "full":
        title = title_of(benchmark.name, None)
    count = f"{answered:,} of {len(results.items):,} questions answered"
    return _draw(f"{title}: official scores, {count}", series, intervals)


def draw_comparison(comparison: Comparison, names: tuple[str, str]) -> bytes:
    """The PNG of compare.png: both runs above, the differences below."""
    rows = [row for row in comparison.rows if row.name != "micro"]
    # A dollar would begin a formula.
    labels = [name.replace("$", r"\$") for name in names]
    mine, theirs = ({row.name: getattr(row, side) for row in rows} for side in SIDES)
    series = [
        Series(f"this run, {labels[0]}", RUN, mine),
        Series(f"the other, {labels[1]}", OTHER_RUN, theirs),
    ]
    benchmark = comparison.this.benchmark
    title = title_of(benchmark.name, benchmark.subset)
    title = f"{title}: two runs, {comparison.questions:,} questions"
    return _draw(title, series, differences=rows)


class Series(NamedTuple):
    """Bars of one colour: percent by task; a task that is missing has no bar."""

    label: str
    colour: str
    scores: Mapping[str, float]


def _draw(
    title: str,
    series: Sequence[Series],
    intervals: Sequence[Interval] = (),
    differences: Sequence[Difference] = (),
) -> bytes:
    """Groups of bars in the order of the first series, which ``intervals`` belong to.

    Below them, where given, the differences of the first two with their intervals.
    """
    # Here, because it takes most of a second.
    from matplotlib.figure import Figure

    groups = list(series[0].scores)
    per_group = max(0.92, 0.6 + 0.12 * len(series))  # a label, or its bars
    inches = min(max(6.4, 1.2 + len(groups) * per_group), 14)
    figure = Figure(
        figsize=(inches, 6.6 if differences else 4.4), dpi=150, layout="constrained"
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    if differences:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        _draw_differences(below, differences)
    else:
        axes = below = figure.subplots()
    width = 0.86 / len(series)
    for place, (label, colour, scores) in enumerate(series):
        at = [x for x, name in enumerate(groups) if name in scores]
        middles = [x + (place - (len(series) - 1) / 2) * width for x in at]
        heights = [scores[groups[x]] for x in at]
        axes.bar(middles, heights, width * 0.92, color=colour, label=label)
        if place == 0 and intervals:
            _label_bars(axes, middles, heights, intervals)
    highest = max(score for one in series for score in one.scores.values())
    top = max([highest, *[interval[1] for interval in intervals if interval]])
    axes.set_ylim(0, max(20, min(1.12 * top, 106) if top <= 100 else 1.12 * top))
    axes.set_ylabel("percent")
    below.set_xticks(range(len(groups)), [LABELS.get(n, n) for n in groups], fontsize=8)
    for ax in dict.fromkeys([axes, below]):
        if "overall" in groups:  # the average stands apart from what it averages
            ax.axvline(len(groups) - 1.5, color="0.75", lw=0.8)
        ax.set_xlim(-0.6, len(groups) - 0.4)
        ax.tick_params(axis="x", length=0)
        ax.tick_params(axis="y", labelsize=8)
        ax.grid(axis="y", color="0.9", lw=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower left",
        ncols=len(series) + 1,
        fontsize=8.5,
        frameon=False,
        handlelength=1.0,
    )
    return _png(figure)


def _label_bars(
    axes: "Axes",
    middles: Sequence[float],
    heights: Sequence[float],
    intervals: Sequence[Interval],
) -> None:
    """The interval over each bar, and its height in figures above that."""
    label = INTERVAL  # once; what begins with an underscore is in no legend
    for x, height, interval in zip(middles, heights, intervals, strict=True):
        if interval:
            axes.vlines(x, *interval, color="black", lw=1.1, label=label)
            label = "_"
        text = axes.annotate(
            f"{height:.1f}",
            # A percentile interval need not hold the score itself.
            (x, max(height, interval[1] if interval else 0)),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=7.5,
            color=RUN,
            fontweight="bold",
        )
        _outline(text)  # it is wider than its bar


def _draw_differences(axes: "Axes", rows: Sequence[Difference]) -> None:
    axes.axhline(0, color="0.4", lw=0.8)
    for x, row in enumerate(rows):
        if row.interval:
            axes.vlines(x, *row.interval, color="black", lw=1.4)
        axes.plot(x, row.difference, "o", ms=6, color=RUN)
        text = axes.annotate(
            f"{row.difference:+.1f}",
            (x, row.difference),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
        _outline(text)
    ends = [end for row in rows for end in (row.interval or (row.difference,) * 2)]
    reach = 1.15 * max(1.0, *map(abs, ends))
    axes.set_ylim(-reach, reach)
    axes.set_ylabel("difference, points\n(95% interval)")


def _outline(text: Any) -> None:
    """White around letters that stand on bars or lines."""
    from matplotlib.patheffects import withStroke

    text.set_path_effects([withStroke(linewidth=2, foreground="white")])


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    # None takes the key out: a version of matplotlib is nothing of the run's.
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
