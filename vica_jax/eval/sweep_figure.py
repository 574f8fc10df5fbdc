"""sweep.png: accuracy against visual tokens and against seconds, a mark per row.

Colour is the number of frames (Okabe and Ito's colours), a filled circle has no time
instruction, an open triangle has it; numbers lead to the list below, which also names
what was not run. So every row can be told without its colour.
"""

import io
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from vica_jax.eval.sweep_table import DONE, WAITING, Sweep, SweepRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
WIDTH = 10.0  # inches
PLOT = 4.4
LINE = 0.14  # of the list
LETTERS = 146  # in a line of it
MOST_LINES = 2  # of a reason: all of it stands in sweep.md
BESIDE = 3.5  # points: marks with and without time instruction have the same tokens
REACH, HIGH, DIGIT = 6.0, 4.5, 3.0  # points: a mark's half size, a number's, a digit's


def draw_sweep(sweep: Sweep) -> bytes:
    """The PNG of sweep.png."""
    file = io.BytesIO()
    figure = make_figure(sweep)
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def make_figure(sweep: Sweep) -> "Figure":
    """Two panels with a common scale of accuracy, and the list of all rows."""
    from matplotlib.figure import Figure

    text = list_rows(sweep)
    below = LINE * (len(text) + 2)
    height = PLOT + below
    figure = Figure(figsize=(WIDTH, height), dpi=150)
    left, right = figure.subplots(1, 2, sharey=True)
    top, bottom = 1 - 0.75 / height, (below + 0.62) / height
    figure.subplots_adjust(0.07, bottom, 0.985, top, wspace=0.06)
    asked = len(sweep.benchmark.questions)
    figure.suptitle(
        f"{sweep.title}: official overall score, {asked:,} questions",
        x=0.01,
        y=1 - 0.12 / height,
        ha="left",
        va="top",
        fontsize=11,
    )
    marks = find_marks(sweep)
    left.set_ylabel("overall, percent (95% interval)", fontsize=9)
    label = "visual tokens of a video"
    if len({mark.time for mark in marks}) > 1:
        label += " (circle and triangle side by side)"
    _draw_panel(figure, left, marks, _tokens, BESIDE, label)
    _draw_panel(figure, right, marks, _seconds, 0, "seconds per video, median")
    left.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    _add_legend(figure, marks, 1 - 0.36 / height)
    figure.text(
        0.01,
        (below - 0.1) / height,
        "\n".join(text),
        ha="left",
        va="top",
        fontsize=7.5,
        family="monospace",
        linespacing=1.35,
    )
    # Numbers are placed where the marks have come to lie.
    _add_numbers(left, marks, _tokens, BESIDE)
    _add_numbers(right, marks, _seconds, 0)
    return figure


# ------------------------------------------------------------------------------- marks
class Mark(NamedTuple):
    """A row that was run; ``number`` is its place in the list, from 1."""

    number: int
    row: SweepRow
    colour: str
    tokens: float
    seconds: float | None
    score: float

    @property
    def time(self) -> bool:
        return self.row.point.time_instruction


Value = Callable[[Mark], float | None]


def _tokens(mark: Mark) -> float:
    return mark.tokens


def _seconds(mark: Mark) -> float | None:
    return mark.seconds


def find_marks(sweep: Sweep) -> list[Mark]:
    """One mark for each row that was run, numbered by its place in the grid."""
    frames = sorted({row.point.num_frames for row in sweep.rows})
    colours = {n: COLOURS[i % len(COLOURS)] for i, n in enumerate(frames)}
    return [
        Mark(
            number=number,
            row=row,
            colour=colours[row.point.num_frames],
            tokens=sum(row.tokens or ()),
            seconds=None if row.timing is None else row.timing.per_video,
            score=row.results.overall.score,
        )
        for number, row in enumerate(sweep.rows, 1)
        if row.results is not None
    ]


def _draw_panel(
    figure: "Figure",
    axes: "Axes",
    marks: Sequence[Mark],
    value: Value,
    beside: float,
    label: str,
) -> None:
    from matplotlib.transforms import offset_copy

    for time, shape in ((False, "o"), (True, "^")):
        shift = offset_copy(
            axes.transData,
            figure,
            x=beside if time else -beside,
            units="points",
        )
        for mark in marks:
            x = value(mark)
            if x is None or mark.time is not time:
                continue
            assert mark.row.results is not None
            interval = mark.row.results.overall.interval
            if interval is not None:
                axes.vlines(x, *interval, color=mark.colour, lw=1, transform=shift)
            axes.plot(
                x,
                mark.score,
                shape,
                ms=7,
                color=mark.colour,
                markerfacecolor="white" if time else mark.colour,
                markeredgewidth=1.5,
                transform=shift,
            )
    axes.set_xlabel(label, fontsize=9)
    axes.set_xlim(*_limits([x for mark in marks if (x := value(mark)) is not None]))
    axes.set_ylim(*_score_limits(marks))
    axes.tick_params(labelsize=8)
    axes.grid(color="0.9", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if not any(value(mark) is not None for mark in marks):
        axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center")


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """From 0, so that what costs twice as much stands twice as far."""
    return 0, 1.12 * max(values, default=1) or 1


def _score_limits(marks: Sequence[Mark]) -> tuple[float, float]:
    """All scores and intervals with some air, at least ten points, within 0 to 100."""
    ends = [mark.score for mark in marks]
    for mark in marks:
        if mark.row.results is not None and mark.row.results.overall.interval:
            ends += mark.row.results.overall.interval
    low, high = min(ends, default=0), max(ends, default=100)
    air = max(0.08 * (high - low), (10 - (high - low)) / 2, 1)
    return max(low - air, -2), min(high + air, max(102, high + 2))


def _add_numbers(
    axes: "Axes", marks: Sequence[Mark], value: Value, beside: float
) -> None:
    """The marks' numbers, where there is room: on no mark and no other number."""
    from matplotlib.patheffects import withStroke

    there = [(x, mark) for mark in marks if (x := value(mark)) is not None]
    if not there:
        return
    scale = 72 / axes.figure.dpi
    feet = axes.transData.transform([(x, mark.score) for x, mark in there]) * scale
    feet[:, 0] += [beside if mark.time else -beside for _, mark in there]
    taken = [(x, y, REACH, REACH) for x, y in feet]
    for (x, mark), (at_x, at_y) in zip(there, feet, strict=True):
        wide = DIGIT * len(str(mark.number)) + 1
        side = 1 if mark.time else -1
        places = [
            (way * (REACH + wide), rise)
            for rise in (0, 9, -9, 18, -18, 27, -27)
            for way in (side, -side)
        ]
        right, up = next(
            (
                (dx, dy)
                for dx, dy in places
                if all(
                    abs(at_x + dx - other_x) > wide + half_x - 0.5
                    or abs(at_y + dy - other_y) > HIGH + half_y - 0.5
                    for other_x, other_y, half_x, half_y in taken
                )
            ),
            places[0],
        )
        taken.append((at_x + right, at_y + up, wide, HIGH))
        axes.annotate(
            str(mark.number),
            (x, mark.score),
            xytext=(right + (beside if mark.time else -beside), up),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            color=mark.colour,
            fontweight="bold",
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
            arrowprops={"arrowstyle": "-", "lw": 0.6, "color": "0.5"} if up else None,
        )


def _add_legend(figure: "Figure", marks: Sequence[Mark], y: float) -> None:
    from matplotlib.lines import Line2D

    def key(shape: str, colour: str, label: str, face: str | None = None) -> Line2D:
        return Line2D(
            [],
            [],
            marker=shape,
            ls="",
            ms=7,
            color=colour,
            markerfacecolor=face or colour,
            markeredgewidth=1.5,
            label=label,
        )

    frames = {mark.row.point.num_frames: mark.colour for mark in marks}
    handles = [key("s", frames[n], f"{n} frames") for n in sorted(frames)]
    times = {mark.time for mark in marks}
    if False in times:
        handles.append(key("o", "0.3", "no time instruction"))
    if True in times:
        handles.append(key("^", "0.3", "time instruction", "white"))
    if handles:
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0.005, y),
            ncols=len(handles),
            fontsize=8.5,
            frameon=False,
            handlelength=1.0,
            columnspacing=1.4,
        )


# -------------------------------------------------------------------------------- list
def list_rows(sweep: Sweep) -> list[str]:
    """Every row of the grid in a line or two: its numbers, or why it has none."""
    lines = [
        f"{'':>3}  {'frames':>6}  {'token ratio':<13} {'time':<4} {'tokens':>8}  "
        f"{'overall':>7}  {'s/video':>8}"
    ]
    for number, row in enumerate(sweep.rows, 1):
        tokens = "" if row.total_tokens is None else f"{row.total_tokens:,}"
        head = (
            f"{number:>3}  {row.point.num_frames:>6}  {row.ratio_text:<13} "
            f"{row.time_text:<4} {tokens:>8}  "
        )
        if row.status == DONE and row.results is not None:
            seconds = "" if row.timing is None else f"{row.timing.per_video:.2f}"
            lines.append(f"{head}{row.results.overall.score:>7.2f}  {seconds:>8}")
            continue
        why = row.status if row.status == WAITING else f"{row.status}: {row.reason}"
        lines += textwrap.wrap(
            why.replace("$", r"\$"),
            LETTERS,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            max_lines=MOST_LINES,
            placeholder=" ...",
        )
    return lines
