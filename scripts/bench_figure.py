"""The CPU suite as a picture: our time over the peer's, with bar and goal."""

import io
import os
from collections.abc import Sequence
from typing import Any

from vica_jax.files import replacing

OURS, BAR, GOAL = "#2563eb", "#b91c1c", "#15803d"


def draw_ratios(rows: Sequence[dict[str, Any]], path: str | os.PathLike[str]) -> None:
    """Write a PNG: one line for each row, medians as bars, every pair as a dot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    fig, ax = plt.subplots(figsize=(9, 0.42 * len(rows) + 1.4), layout="constrained")
    for place, row in enumerate(rows):
        seconds = row["seconds"]
        pairs = [x / y for x, y in zip(seconds["ours"], seconds["theirs"], strict=True)]
        ax.barh(place, row["ratio"], height=0.55, color=OURS, alpha=0.75)
        ax.plot(pairs, [place] * len(pairs), "o", ms=3, color="black", alpha=0.5)
        for name, colour in (("bar", BAR), ("goal", GOAL)):
            if row[name] is None:
                continue
            ax.plot([row[name]] * 2, [place - 0.38, place + 0.38], color=colour, lw=2)
    ax.plot([], [], color=BAR, lw=2, label="bar")
    ax.plot([], [], color=GOAL, lw=2, label="goal")
    ax.plot([], [], "o", ms=3, color="black", alpha=0.5, label="each pair")
    ax.axvline(1, color="grey", lw=0.8, ls=":")
    ax.set_yticks(range(len(rows)), [row["said"] for row in rows], fontsize=8)
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.set_xlabel("our time / the peer's (median); less is faster")
    ax.legend(loc="lower right", fontsize=8)
    image = io.BytesIO()
    fig.savefig(image, format="png", dpi=130)
    plt.close(fig)
    with replacing(path) as partial:
        partial.write_bytes(image.getvalue())
