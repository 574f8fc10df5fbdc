"""What ``data/check`` found, as JSON values, lines of text and a picture."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vica_jax.data.check import MODALITIES, Findings
from vica_jax.data.headers import FileFacts
from vica_jax.data.order import split_validation
from vica_jax.data.shapes import BatchShape
from vica_jax.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 20  # problems that are printed; the JSON file names all
SIZES = 10  # most frequent frame sizes that are named
BINS = 60
SPREAD = 20  # largest of the median from which tokens stand on a logarithmic axis
LARGE = 100  # records in one bin from which their numbers do
SOURCE_COLUMNS = ("name", "strategy", "found", "taken", "bad")
COLOURS = dict(zip(MODALITIES, ("C7", "C0", "C2", "C1"), strict=True))
JsonDict = dict[str, Any]


# --------------------------------------------------------------------------- JSON
def summarise(found: Findings) -> JsonDict:
    """Everything that was found, as JSON values.

    Ranges are ``{"min", "median", "max", "mean"}``, None where there is nothing.
    """
    usable, settings = found.usable, found.settings
    bad = Counter(found.source[~usable].tolist())
    context, tokens = found.layout.context_length, found.tokens
    over = int(np.sum(tokens > context))
    return {
        "mixture": settings.mixture,
        "max_bad_share": settings.max_bad_share,
        "excluded": list(found.excluded),
        "records": len(usable),
        "usable": int(usable.sum()),
        "bad": int((~usable).sum()),
        "bad_share": float((~usable).mean()),
        "modalities": _modalities(found, np.ones_like(usable)),
        "sources": [
            {
                **vars(source),
                "bad": bad[number],
                "modalities": _modalities(found, found.source == number),
            }
            for number, source in enumerate(found.sources)
        ],
        "files": {
            "named": len(found.files),
            "missing": sum(file.missing for file in found.files.values()),
            "unreadable": sum(
                bool(file.problem) and not file.missing for file in found.files.values()
            ),
            "opened": sum(file.opened for file in found.files.values()),
            "header_only": sum(
                not (file.opened or file.problem) for file in found.files.values()
            ),
        },
        "videos": _describe(found, "video"),
        "folders": _describe(found, "folder"),
        "images": _describe(found, "image"),
        "tokens": {
            "exact_records": int(np.sum(found.exact & usable)),
            "text": _range(found.text[usable]),
            "visual": _range(found.visual[usable]),
            "total": _range(tokens),
            "supervised": _range(found.targets[usable]),
            "context_length": context,
            "over_context": over,
            "over_context_share": over / max(len(tokens), 1),
            "per_bucket": _per_bucket(np.minimum(tokens, context), found),
        },
        "file_problems": [
            {
                "path": str(path),
                "kind": "missing" if file.missing else "unreadable",
                "reason": file.problem,
                "records": len(found.named_by[path]),
            }
            for path, file in sorted(found.files.items())
            if file.problem
        ],
        "record_problems": [vars(problem) for problem in found.problems],
    }


def epoch_facts(
    found: Findings, *, global_batch_size: int, epochs: int, max_steps: int, seed: int
) -> JsonDict:
    """Records to train on, those held out, steps. Bad records keep their places.

    Raises:
      OrderError: a validation share that leaves nothing to train on.
    """
    count = len(found.usable)
    chosen, held = split_validation(count, found.settings.validation_share, seed=seed)
    steps = -(-len(chosen) // global_batch_size)
    total = steps * epochs
    return {
        "records": len(chosen),
        "held_out": len(held),
        "global_batch_size": global_batch_size,
        "steps_per_epoch": steps,
        "epochs": epochs,
        "steps": min(total, max_steps) if max_steps else total,
    }


def _modalities(found: Findings, chosen: np.ndarray) -> dict[str, int]:
    kinds = found.kind[chosen]
    return {
        name: int(np.sum(kinds == number)) for number, name in enumerate(MODALITIES)
    }


def _per_bucket(lengths: np.ndarray, found: Findings) -> dict[str, int]:
    """Records per static length that they are padded to in a batch of their own."""
    buckets: Counter[int] = Counter()
    for length, count in zip(*np.unique(lengths, return_counts=True), strict=True):
        shape = BatchShape(length=int(length))
        shape = shape.bucketed(found.layout, found.settings.shapes)
        buckets[shape.length] += int(count)
    return {str(length): count for length, count in sorted(buckets.items())}


def _describe(found: Findings, kind: str) -> JsonDict:
    """Durations, rates and sizes of the readable files of a kind."""
    files = [f for f in found.files.values() if f.kind == kind and not f.problem]
    sizes = Counter(f"{f.size_wh[0]}x{f.size_wh[1]}" for f in files)
    facts: JsonDict = {"count": len(files), "sizes": dict(sizes.most_common(SIZES))}
    facts["other_sizes"] = max(len(sizes) - SIZES, 0)
    values: dict[str, Callable[[FileFacts], float]] = {
        "width": lambda file: file.size_wh[0],
        "height": lambda file: file.size_wh[1],
    }
    if kind != "image":
        values |= {
            "seconds": lambda file: file.seconds,
            "fps": lambda file: file.fps,
            "frames": lambda file: file.frames,
        }
    return facts | {
        name: _range(np.array([value(file) for file in files]))
        for name, value in values.items()
    }


def _range(values: np.ndarray) -> JsonDict | None:
    if not len(values):
        return None
    low, middle, high = np.min(values), np.median(values), np.max(values)
    named = {"min": low, "median": middle, "max": high, "mean": np.mean(values)}
    return {name: round(float(value), 4) for name, value in named.items()}


# --------------------------------------------------------------------------- text
def describe(facts: JsonDict) -> Iterator[str]:
    """The lines to print for ``summarise``'s values; three numbers with slashes are
    the least, the median and the largest.
    """
    yield f"{facts['mixture']}"
    yield from _table(
        ["source", *SOURCE_COLUMNS[1:], *MODALITIES],
        [
            [*(s[key] for key in SOURCE_COLUMNS), *s["modalities"].values()]
            for s in facts["sources"]
        ],
    )
    if facts["excluded"]:
        yield f"  {len(facts['excluded'])} source(s) left out by data.exclude"
    files, tokens = facts["files"], facts["tokens"]
    closed = files["header_only"]
    yield (
        f"records    {facts['records']:,}: {facts['usable']:,} usable, "
        f"{facts['bad']:,} bad ({facts['bad_share']:.2%})"
    )
    yield (
        f"files      {files['named']:,}: {files['missing']:,} missing, "
        f"{files['unreadable']:,} unreadable, {files['opened']:,} opened"
        + (f", {closed:,} seen by header only" if closed else "")
    )
    if files["named"] or tokens["total"]:
        yield "           (below: least / median / largest)"
    for name in ("videos", "folders", "images"):
        media = facts[name]
        if not media["count"]:
            continue
        sizes = ", ".join(f"{size} ({n:,})" for size, n in media["sizes"].items())
        more = f", {media['other_sizes']:,} more" if media["other_sizes"] else ""
        clock = ""
        if name != "images":
            clock = f" {_span(media['seconds'])} s, {_span(media['fps'])} fps,"
        yield f"{name:<10} {media['count']:,}:{clock} {sizes}{more}"
    if tokens["total"]:
        yield from _describe_tokens(facts)
    if "epoch" in facts:
        yield _describe_epoch(facts["epoch"])
    yield from _describe_problems(facts)


def _describe_epoch(epoch: JsonDict) -> str:
    held = f" ({epoch['held_out']:,} held out)" if epoch["held_out"] else ""
    return (
        f"epoch      {epoch['records']:,} records{held} in global batches of "
        f"{epoch['global_batch_size']:,}: {epoch['steps_per_epoch']:,} steps; "
        f"{epoch['steps']:,} steps in all"
    )


def _describe_tokens(facts: JsonDict) -> Iterator[str]:
    tokens = facts["tokens"]
    for name in ("text", "visual", "total", "supervised"):
        head = "tokens    " if name == "text" else "          "
        yield f"{head} {name:<10} {_span(tokens[name])}"
    exact = tokens["exact_records"]
    if exact < facts["usable"]:
        yield f"           exact for {exact:,} records, the others by header"
    cut = ": they are cut" if tokens["over_context"] else ""
    yield (
        f"           {tokens['over_context']:,} of {facts['usable']:,} "
        f"({tokens['over_context_share']:.2%}) past the context of "
        f"{tokens['context_length']:,}{cut}"
    )
    buckets = tokens["per_bucket"].items()
    listed = ", ".join(f"{int(high):,}: {n:,}" for high, n in buckets)
    yield f"           records per length bucket: {listed}"


def _describe_problems(facts: JsonDict) -> Iterator[str]:
    yield from _first("files that cannot be used", _file_lines(facts))
    yield from _first("records that cannot be used", _record_lines(facts))
    limit = facts["max_bad_share"]
    if facts["bad_share"] > limit:
        yield (
            f"{facts['bad_share']:.2%} of the records are bad, past "
            f"data.max_bad_share = {limit:g}: a run would stop"
        )


def _file_lines(facts: JsonDict) -> list[str]:
    return [
        f"{p['kind']}: {p['path']}"
        + (f": {p['reason']}" if p["kind"] == "unreadable" else "")
        + (f" ({p['records']:,} records)" if p["records"] > 1 else "")
        for p in facts["file_problems"]
    ]


def _record_lines(facts: JsonDict) -> list[str]:
    return [
        f"{p['source']}: record {p['id'] or p['index']!r}: {p['reason']}"
        for p in facts["record_problems"]
    ]


def first_reason(facts: JsonDict) -> str:
    """The first thing that cannot be used, and why; empty where all can be."""
    return next(iter(_file_lines(facts) + _record_lines(facts)), "")


def _first(title: str, lines: Sequence[str]) -> Iterator[str]:
    if not lines:
        return
    more = f", the first {SHOWN}" if len(lines) > SHOWN else ""
    yield f"{len(lines):,} {title}{more}:"
    for line in lines[:SHOWN]:
        yield f"  {line}"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    cells = [list(head)] + [
        [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        left = [cell.ljust(w) for cell, w in zip(row[:2], widths, strict=False)]
        right = [cell.rjust(w) for cell, w in zip(row[2:], widths[2:], strict=True)]
        yield "  " + "  ".join(left + right)


def _span(values: JsonDict) -> str:
    """Least, median and largest value."""
    numbers = [values[name] for name in ("min", "median", "max")]
    return " / ".join(f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.4g}" for x in numbers)


# ------------------------------------------------------------------------ picture
def plot_tokens(found: Findings, target: Path) -> None:
    """Histograms of a sample's tokens and supervised tokens as a PNG, atomically.

    The dotted lines are the length buckets, the red line is the context length, where
    they lie within the range.
    """
    # Here, because it takes most of a second.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 8), dpi=110, layout="constrained")
    above, below = figure.subplots(2, 1)
    usable, exact = found.usable, int(np.sum(found.exact & found.usable))
    figure.suptitle(
        f"{Path(found.settings.mixture).name}: {int(usable.sum()):,} usable records, "
        f"tokens exact for {exact:,}"
    )
    total = found.text + found.visual
    _histogram(above, found, total, "tokens of a record (text and visual)")
    _histogram(below, found, found.targets, "supervised tokens of a record")
    low, high = above.get_xlim()
    for edge in found.settings.shapes.lengths:
        if low < edge < high:
            above.axvline(edge, color="grey", ls=":", lw=0.8)
    if found.layout.context_length < high:
        label = f"context {found.layout.context_length:,}"
        above.axvline(found.layout.context_length, color="red", lw=1.2, label=label)
    above.legend(fontsize="small")
    _save(figure, target)


def _histogram(ax: Any, found: Findings, values: np.ndarray, label: str) -> None:
    """One outline per modality; axes are logarithmic where numbers differ much."""
    usable = found.usable
    low, high = int(values[usable].min()), int(values[usable].max())
    if high > SPREAD * max(np.median(values[usable]), 1):
        ax.set_xscale("log")
        low = max(low, 1)
        bins = np.unique(np.geomspace(low, high + 1, BINS + 1).round()) - 0.5
    else:
        # Whole numbers in each bin, so that none gets more of them than its neighbours.
        step = max(math.ceil((high - low + 1) / BINS), 1)
        bins = np.arange(low, high + step + 1, step) - 0.5
    most = 0
    for number, name in enumerate(MODALITIES):
        part = np.maximum(values[usable & (found.kind == number)], low)
        if not len(part):
            continue
        counts, _ = np.histogram(part, bins)
        most, title = max(most, counts.max()), f"{name} ({len(part):,})"
        ax.stairs(counts, bins, fill=True, alpha=0.25, color=COLOURS[name])
        ax.stairs(counts, bins, color=COLOURS[name], label=title)
    if most > LARGE:
        ax.set_yscale("log")
        ax.set_ylim(0.7, 2 * most)
    else:
        ax.set_ylim(0, 1.08 * most)
        ax.yaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel(label)
    ax.set_ylabel("records")
    ax.grid(alpha=0.3)


def _save(figure: "Figure", target: Path) -> None:
    with replacing(target) as partial:
        figure.savefig(partial, format="png")
