"""scaling.png: four panels of cost against frames, questions, rows and devices.

Colours are Okabe and Ito's; what was measured has marks, what it is held against is
dotted and grey.
"""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vica_jax.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, RED, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
IDEAL: Any = {"color": "#777777", "linestyle": ":", "linewidth": 1.4}
SMALL = 8.5


def draw(numbers: Mapping[str, Any], path: str) -> None:
    """Write the PNG."""
    file = io.BytesIO()
    make_figure(numbers).savefig(file, format="png", metadata={"Software": None})
    with replacing(path) as temporary:
        temporary.write_bytes(file.getvalue())


def make_figure(numbers: Mapping[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.6), dpi=150, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # pyright: ignore
    panels = figure.subplots(2, 2).ravel()
    draws = {
        "frames": _frames,
        "questions": _questions,
        "rows": _rows,
        "devices": _devices,
    }
    for panel, (name, draw_panel) in zip(panels, draws.items(), strict=True):
        panel.tick_params(labelsize=SMALL)
        panel.grid(color="#e5e5e5", linewidth=0.7)
        panel.set_axisbelow(True)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
        if name in numbers:
            draw_panel(panel, numbers[name])
        else:
            panel.set_title(f"{name}: not measured", loc="left", fontsize=10)
    figure.suptitle(
        f"Cost on {numbers['device']}, {numbers['dtype']}: a small model whose prompt "
        "rules (bytes: compiled programs)",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    return figure


def _frames(panel: "Axes", points: list[dict[str, Any]]) -> None:
    """Seconds of a fresh video, and the line of its model FLOPs."""
    x = [point["frames"] for point in points]
    y = [point["median_s"] for point in points]
    flops = [point["flops"] for point in points]
    ideal = [y[0] * value / flops[0] for value in flops]
    panel.plot(x, y, "o-", color=BLUE, label="measured")
    panel.plot(x, ideal, **IDEAL, label="in proportion to model FLOPs")
    _powers(panel, x)
    panel.set_yscale("log", base=2)
    panel.yaxis.set_major_formatter(_plain)
    _label(panel, "One question about a fresh video", "frames", "seconds")


def _questions(panel: "Axes", found: Mapping[str, Any]) -> None:
    from matplotlib.ticker import MaxNLocator

    points, line = found["points"], found["line"]
    x = [point["questions"] for point in points]
    y = [point["median_s"] for point in points]
    apart = [point["independent_s"] for point in points]
    fitted = [line["prefix_s"] + line["per_question_s"] * n for n in x]
    panel.plot(x, apart, "s-", color=RED, label="one by one")
    panel.plot(x, y, "o", color=BLUE, label="session: open once, ask all")
    formula = f"{line['prefix_s']:.2f} + {line['per_question_s']:.3f} n seconds"
    panel.plot(x, fitted, **IDEAL, label=f"{formula} (R² {line['r_squared']:.3f})")
    for point in points:
        if point["questions"] in (8, 18, max(x)):
            panel.annotate(
                f"{point['times_cheaper']:.1f} x",
                (point["questions"], point["median_s"]),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=SMALL,
                color=BLUE,
            )
    panel.set_ylim(bottom=0)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    _label(panel, "Questions about one video", "questions", "seconds for all of them")


def _rows(panel: "Axes", points: list[dict[str, Any]]) -> None:
    """Seconds of a row's prefill and of a row's token, each as a share of one row's."""
    x = [point["rows"] for point in points]
    for key, colour, mark, said in (
        ("prefill_s", BLUE, "o-", "prefill"),
        ("decode_step_s", GREEN, "s-", "decode step"),
    ):
        each = [point[key] / point["rows"] for point in points]
        panel.plot(
            x,
            [value / each[0] for value in each],
            mark,
            color=colour,
            label=f"{said} ({_milliseconds(each[0])} for one row)",
        )
    panel.plot(x, [1 / n for n in x], **IDEAL, label="rows for nothing: 1 / rows")
    panel.axhline(1, **IDEAL)
    _powers(panel, x)
    panel.set_yscale("log", base=2)
    panel.yaxis.set_major_formatter(_plain)
    _label(panel, "Rows of one batch", "rows", "time of each row, one row alone = 1")


def _devices(panel: "Axes", records: list[dict[str, Any]]) -> None:
    styles = (("o-", BLUE), ("s-", RED), ("^-", GREEN), ("v-", PINK))
    programs = list(dict.fromkeys(record["program"] for record in records))
    for program, (mark, colour) in zip(programs, styles, strict=True):
        own = [x for x in records if x["program"] == program and x["moved"]["total"]]
        x = [record["devices"] for record in own]
        y = [record["moved"]["total"] / 1e6 for record in own]
        panel.plot(x, y, mark, color=colour, label=program)
        if own and own[0]["expected"] is not None:
            expected = [record["expected"] / 1e6 for record in own]
            panel.plot(x, expected, **IDEAL)
    panel.plot([], [], **IDEAL, label="by arithmetic")
    panel.set_yscale("log")
    _powers(panel, sorted({x["devices"] for x in records if x["moved"]["total"]}))
    panel.yaxis.set_major_formatter(_plain)
    title = "Bytes that each device receives in a step"
    _label(panel, title, "devices", "MB, float32")


def _powers(panel: "Axes", x: list[int]) -> None:
    panel.set_xscale("log", base=2)
    panel.set_xticks(x, [str(value) for value in x])
    panel.minorticks_off()


def _label(panel: "Axes", title: str, x: str, y: str) -> None:
    panel.set_title(title, loc="left", fontsize=10)
    panel.set_xlabel(x, fontsize=9)
    panel.set_ylabel(y, fontsize=9)
    panel.legend(fontsize=SMALL, frameon=False)


def _plain(value: float, _: Any = None) -> str:
    return f"{value:g}"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.{0 if seconds > 0.01 else 1}f} ms"
