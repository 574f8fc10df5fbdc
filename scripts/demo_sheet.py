"""The demo's contact sheet: frames, a plan of the room, questions and answers."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scripts.demo_room import FilmedRoom, Told
from vica_jax.eval.figures import LABELS
from vica_jax.files import replacing
from vica_jax.world.geometry import footprint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, RULE = "#1c1c1c", "#6b6b6b", "#d5d5d5"
RIGHT, PATH = "#0072B2", "#D55E00"  # Okabe and Ito's blue and vermilion
WIDTH, DPI = 15.0, 110  # inches, pixels an inch
MARGIN, TOP, PICTURES = 0.45, 1.0, 6.4  # inches; of the table see below
LINE, ROW_GAP, HEAD = 0.19, 0.13, 0.4
COLUMNS = {"task": 0.0, "question": 1.75, "answer": 8.85, "truth": 11.1, "score": 13.3}
WRAP = {"task": 20, "question": 106, "answer": 27, "truth": 27}
MOST_LINES = 3
SIZE = 9.2  # points of the table's text


def draw_sheet(
    path: Path, room: FilmedRoom, told: Sequence[Told], subtitle: str
) -> None:
    """Write the PNG."""
    from matplotlib.figure import Figure  # most of a second

    rows = [_row(one) for one in told]
    table = HEAD + sum(_height(row) for row in rows)
    height = TOP + PICTURES + 0.35 + table + MARGIN
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    _write(figure, MARGIN, 0.5, "A room never seen in training", 19, weight="bold")
    _write(figure, MARGIN, 0.82, subtitle, 10.5, FAINT)
    _draw_frames(figure, room)
    _draw_plan(figure, room)
    _draw_table(figure, rows, TOP + PICTURES + 0.35)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})


# ----------------------------------------------------------------------------- places
def _axes(figure: "Figure", left: float, top: float, size: tuple[float, float]) -> Any:
    """Axes by inches from the sheet's upper left corner."""
    width, height = figure.get_size_inches()
    across, down = size
    return figure.add_axes(
        (left / width, 1 - (top + down) / height, across / width, down / height)
    )


def _write(
    figure: "Figure",
    left: float,
    down: float,
    text: str,
    size: float,
    colour=INK,
    **how,
) -> None:
    """Text whose first baseline is ``down`` inches below the sheet's upper edge."""
    width, height = figure.get_size_inches()
    figure.text(
        left / width,
        1 - down / height,
        text.replace("$", r"\$"),  # a dollar would begin a formula
        fontsize=size,
        color=colour,
        va="baseline",
        **how,
    )


# --------------------------------------------------------------------------- pictures
def _draw_frames(figure: "Figure", room: FilmedRoom) -> None:
    """The frames that the model saw, in rows, each with its second."""
    frames, times = room.clip.frames, room.clip.times
    across = 4 if len(frames) <= 16 else 8
    down = -(-len(frames) // across)
    gap = 0.07
    wide = (8.4 - gap * (across - 1)) / across
    high = wide * frames.shape[1] / frames.shape[2]
    shrink = min(1, (PICTURES + gap) / (down * (high + gap)))
    wide, high = wide * shrink, high * shrink
    for place, (frame, second) in enumerate(zip(frames, times, strict=True)):
        left = MARGIN + place % across * (wide + gap)
        axes = _axes(figure, left, TOP + place // across * (high + gap), (wide, high))
        axes.imshow(frame, aspect="auto", interpolation="lanczos")
        axes.set_axis_off()
        axes.text(
            0.97,
            0.05,
            f"{place + 1}  {second:.1f} s",
            transform=axes.transAxes,
            ha="right",
            fontsize=8,
            color="white",
            bbox={"facecolor": "black", "alpha": 0.55, "pad": 1.6, "lw": 0},
        )


def _draw_plan(figure: "Figure", room: FilmedRoom) -> None:
    """The room from above: walls, doors, things, and where the camera went."""
    from matplotlib.patches import Polygon

    left = MARGIN + 8.4 + 0.45
    axes = _axes(figure, left, TOP, (WIDTH - MARGIN - left, PICTURES))
    scene = room.scene
    outline = np.asarray(scene.outline)
    axes.add_patch(Polygon(outline, closed=True, fc="#f6f3ee", ec=INK, lw=3, zorder=1))
    for door in scene.doors:
        start, end = outline[door.wall], outline[(door.wall + 1) % len(outline)]
        along = (end - start) / np.linalg.norm(end - start)
        ends = start + np.outer([door.start, door.start + door.width], along)
        axes.plot(*ends.T, color="white", lw=3.4, zorder=2, solid_capstyle="butt")
        axes.plot(*ends.T, color="#9a7048", lw=1.6, zorder=2, solid_capstyle="butt")
    for box in sorted(scene.boxes, key=lambda box: box.high[2]):
        colour = np.clip(box.colour if box.colour is not None else 0.8, 0, 1)
        base = footprint(box)
        axes.add_patch(
            Polygon(base, closed=True, fc=colour, ec="0.25", lw=0.8, zorder=3)
        )
        _label(axes, box.centre[:2], box.category)
    _draw_walk(axes, room)
    low, high = outline.min(0), outline.max(0)
    margin = 0.04 * (high - low).max()
    axes.set_xlim(low[0] - margin, high[0] + margin)
    axes.set_ylim(low[1] - 3 * margin, high[1] + margin)
    axes.set_aspect("equal", anchor="N")
    axes.set_axis_off()
    start = low[0], low[1] - 1.6 * margin
    axes.plot([start[0], start[0] + 1], [start[1]] * 2, color=INK, lw=2)
    axes.text(start[0] + 1.12, start[1], "1 m", va="center", fontsize=9, color=INK)
    axes.text(
        high[0],
        start[1],
        "camera, frames 1, 2, ...",
        va="center",
        ha="right",
        fontsize=9,
        color=PATH,
    )


def _draw_walk(axes: "Axes", room: FilmedRoom) -> None:
    """The camera's path, and at each frame of the sheet where it looked."""
    walk = room.film.walk
    axes.plot(*walk.positions[:, :2].T, color=PATH, lw=1.3, zorder=5)
    taken = np.minimum(room.clip.indices, len(walk) - 1)
    places, yaws = walk.positions[taken, :2], walk.yaws[taken]
    for place, yaw in zip(places, yaws, strict=True):
        tip = place + 0.32 * np.array([np.cos(yaw), np.sin(yaw)])
        axes.annotate(
            "",
            tip,
            place,
            arrowprops={"arrowstyle": "-|>", "color": PATH, "lw": 1.2, "shrinkA": 0},
            zorder=6,
        )
    ends = {1: places[0], len(places): places[-1]}
    if np.linalg.norm(places[0] - places[-1]) < 0.4:
        ends = {f"1, {len(places)}": places[0]}
    for number, place in ends.items():
        axes.plot(*place, "o", ms=5, color=PATH, zorder=6)
        _label(axes, place - np.array([0.0, 0.17]), str(number), PATH, bold=True)


def _label(
    axes: "Axes", place: np.ndarray, text: str, colour: str = INK, bold: bool = False
) -> None:
    from matplotlib.patheffects import withStroke

    x, y = place
    axes.text(
        x,
        y,
        text,
        ha="center",
        va="center",
        fontsize=8.2,
        color=colour,
        zorder=8,
        fontweight="bold" if bold else "normal",
        path_effects=[withStroke(linewidth=2.2, foreground="white")],
    )


# ------------------------------------------------------------------------------ table
def _row(told: Told) -> dict[str, list[str]]:
    kind = told.question.question_type
    level = kind.rpartition("_")[2]
    task = LABELS.get(kind) or LABELS[kind.removesuffix(f"_{level}")] + f", {level}"
    texts = {
        "task": task.replace("\n", " "),
        "question": told.question.question.split("\n")[0].strip(),
        "answer": told.said or "(nothing)",
        "truth": told.truth,
    }
    cells = {name: _wrap(text, WRAP[name]) for name, text in texts.items()}
    return {**cells, "score": [f"{told.score:.1f}"]}


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, max_lines=MOST_LINES, placeholder=" ...") or [""]


def _height(row: dict[str, list[str]]) -> float:
    return LINE * max(map(len, row.values())) + ROW_GAP


def _draw_table(
    figure: "Figure", rows: Sequence[dict[str, list[str]]], top: float
) -> None:
    down = top + 0.2
    for name, left in COLUMNS.items():
        _write(figure, MARGIN + left, down, name, SIZE, FAINT)
    down = top + HEAD
    for row in rows:
        _draw_rule(figure, down - 0.08)
        for name, left in COLUMNS.items():
            right = name == "answer" and row["score"] == ["1.0"]
            for line, text in enumerate(row[name]):
                place = down + 0.13 + LINE * line
                colour = RIGHT if right else FAINT if name == "task" else INK
                _write(figure, MARGIN + left, place, text, SIZE, colour)
        _draw_bar(figure, float(row["score"][0]), down)
        down += _height(row)


def _draw_rule(figure: "Figure", down: float) -> None:
    axes = _axes(figure, MARGIN, down, (WIDTH - 2 * MARGIN, 0.01))
    axes.set_axis_off()
    axes.axhline(0, color=RULE, lw=0.8)


def _draw_bar(figure: "Figure", score: float, down: float) -> None:
    """The score as a share of a bar."""
    left = MARGIN + COLUMNS["score"] + 0.35
    axes = _axes(figure, left, down + 0.01, (WIDTH - MARGIN - left, 0.13))
    axes.barh([0, 0], [1, score], 1, color=["#ececec", RIGHT])
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.5, 0.5)
    axes.set_axis_off()
