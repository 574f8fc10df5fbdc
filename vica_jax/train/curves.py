"""Pictures of metrics.jsonl: one run's curves.png, and several runs side by side."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vica_jax.errors import InputError
from vica_jax.files import replacing
from vica_jax.train.sinks import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 1500  # of one line: about what a plot's width can show
FEW_POINTS = 50  # up to which single points are marked
SMOOTH_SHARE = 40  # the smoothed line averages over this part of a run: 1/40


def plot_curves(metrics: Path, target: Path) -> None:
    """Draw a metrics.jsonl into a PNG, which takes its place in one move.

    Three panels over steps, with the examples seen as a second axis: loss (single
    steps, a moving mean, validation losses as points), learning rates, gradient norm.
    Long runs are thinned out to the extremes of each stretch, so that a spike stays
    visible. Steps whose loss or norm is not finite are marked in red. Loss and norm are
    logarithmic where a few of their values are far above the others. A record without
    a step makes no file.
    """
    # Here, because it takes most of a second and a run needs it at its end alone.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    steps, validation = _split(read_metrics(metrics))
    if not steps:
        return
    figure = Figure(figsize=(9, 10), dpi=110, layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    figure.suptitle(metrics.resolve().parent.name)
    at = _column(steps, "step")

    _draw(axes[0], at, _column(steps, "loss"), "loss", smooth=True)
    for name in sorted({key for entry in validation for key in entry if _is_loss(key)}):
        having = [entry for entry in validation if name in entry]
        label = f"validation {name.replace('_', ' ')}"
        axes[0].plot(
            _column(having, "step"), _column(having, name), "o", ms=5, label=label
        )
    rates = sorted({k for entry in steps for k in entry if _is_rate(k)})
    for name in rates:
        label = name.replace("_", " ").replace("/", ": ")
        _draw(axes[1], at, _column(steps, name), label)
    _draw(axes[2], at, _column(steps, "grad_norm"), "gradient norm", smooth=True)

    for ax, title in zip(axes, ("loss", "learning rate", "gradient norm"), strict=True):
        ax.set_ylabel(title)
        ax.grid(alpha=0.3)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(loc="best", fontsize="small")
    axes[1].set_ylim(bottom=0)
    axes[2].set_xlabel("step")
    axes[2].xaxis.set_major_locator(MaxNLocator(integer=True))
    if steps and steps[-1].get("consumed"):
        ratio = steps[-1]["consumed"] / steps[-1]["step"]
        top = axes[0].secondary_xaxis(
            "top", functions=(lambda x: x * ratio, lambda x: x / ratio)
        )
        top.set_xlabel("examples")

    with replacing(target) as partial:
        figure.savefig(partial, format="png")


def plot_runs(
    runs: Mapping[str, Path], metrics: Sequence[str], target: Path, *, apart: bool
) -> None:
    """Draw metrics of several runs (name: metrics.jsonl) over their steps as a PNG.

    One panel per metric with a line per run, or ``apart`` one panel per run with a line
    per metric. Lines are moving means; what a run lacks is left out.

    Raises:
      InputError: a record is missing or empty, or no run has one of the metrics.
    """
    from matplotlib.figure import Figure

    steps = {}
    for name, path in runs.items():
        if not path.is_file():
            raise InputError(f"{path}: no such record of a run: train it first")
        steps[name], _ = _split(read_metrics(path))
    lines = {
        (name, metric): [entry for entry in steps[name] if metric in entry]
        for name in runs
        for metric in metrics
    }
    for metric in metrics:
        if not any(lines[name, metric] for name in runs):
            has = sorted({key for own in steps.values() for row in own for key in row})
            raise InputError(f"no run has {metric!r}: there are {', '.join(has)}")
    panels, others = (runs, metrics) if apart else (metrics, runs)
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5 * columns, 3.2 * rows), dpi=110, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, panel in zip(grid, panels, strict=False):
        for other in others:
            having = lines[(panel, other) if apart else (other, panel)]
            y = _column(having, other if apart else panel)
            x = _column(having, "step")[np.isfinite(y)]
            y = y[np.isfinite(y)]
            mean = moving_mean(y, len(y) // SMOOTH_SHARE | 1)
            ax.plot(*thin_out(x, mean, MOST_POINTS), lw=1.6, label=other)
        ax.set_title(panel, fontsize="medium")
        ax.set_xlabel("step")
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.3)
        ax.legend(fontsize="small")
    for ax in grid[len(panels) :]:
        ax.set_axis_off()
    with replacing(target) as partial:
        figure.savefig(partial, format="png")


def thin_out(x: np.ndarray, y: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most about ``most`` points of a line that keep the extremes of each stretch.

    ``x`` and ``y`` are float ``[n]``, y finite; the first and the last point stay.
    """
    if len(x) <= most:
        return x, y
    edges = np.linspace(0, len(x), max(most // 2, 1) + 1).astype(int)
    keep = {0, len(x) - 1}
    for start, stop in itertools.pairwise(edges):
        part = y[start:stop]
        keep |= {start + int(part.argmin()), start + int(part.argmax())}
    index = np.array(sorted(keep))
    return x[index], y[index]


def moving_mean(y: np.ndarray, window: int) -> np.ndarray:
    """Mean over ``window`` (odd) values around each, fewer at both ends; ``[n]``."""
    total = np.concatenate([[0.0], np.cumsum(y)])
    centre = np.arange(len(y))
    start = np.maximum(centre - window // 2, 0)
    stop = np.minimum(centre + window // 2 + 1, len(y))
    return (total[stop] - total[start]) / (stop - start)


def _draw(
    ax: "Axes", x: np.ndarray, y: np.ndarray, label: str, *, smooth: bool = False
) -> None:
    """One line, with a moving mean over it and marks where it is not finite."""
    present = ~np.isnan(x)
    finite = present & np.isfinite(y)
    broken = x[present & ~finite]
    x, y = x[finite], y[finite]
    window = len(x) // SMOOTH_SHARE | 1
    marker = "." if len(x) <= FEW_POINTS else ""
    over = smooth and window > 1
    faint: dict[str, Any] = {"alpha": 0.35, "lw": 0.8} if over else {"lw": 1.4}
    (line,) = ax.plot(*thin_out(x, y, MOST_POINTS), marker=marker, label=label, **faint)
    if over:
        mean = moving_mean(y, window)
        every = max(1, len(x) // MOST_POINTS)
        label = f"mean of {window} steps"
        ax.plot(x[::every], mean[::every], color=line.get_color(), lw=1.8, label=label)
    if smooth and len(y) and y.min() > 0 and y.max() > 20 * np.median(y):
        ax.set_yscale("log")
    for step in broken[:: max(1, len(broken) // 20)]:
        ax.axvline(step, color="red", lw=0.8, ls=":")
    if len(broken):
        text = f"not finite: {len(broken)}, first at step {broken[0]:.0f}"
        ax.plot([], [], color="red", ls=":", label=text)


def _split(
    entries: Iterable[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The entries of steps and those of validations."""
    steps, validation = [], []
    for entry in entries:
        if "event" not in entry:
            steps.append(entry)
        elif entry["event"] == "validation":
            validation.append(entry)
    return steps, validation


def _column(entries: list[dict[str, Any]], name: str) -> np.ndarray:
    """One number per entry, float64; NaN where it is missing."""
    return np.array([float(entry.get(name, "nan")) for entry in entries], np.float64)


def _is_loss(name: str) -> bool:
    return name == "loss" or name.endswith("_loss")


def _is_rate(name: str) -> bool:
    return name.split("/")[0] == "learning_rate"
