"""Rows of a parity table: what was compared, how far apart, and what is allowed.

Tolerances are absolute, in float32, from the recorded noise of the reference itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

EXACT = 0.0
SIGLIP_PIXELS = 1e-6
HIERA_PIXELS = 1e-5
FEATURES = 1e-4
LOGITS = 1e-3


@dataclass(frozen=True)
class Row:
    """One compared quantity. ``tolerance`` None: recorded for information only."""

    case: str
    quantity: str
    error: float
    tolerance: float | None
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.tolerance is None or self.error <= self.tolerance


def gap_of(ours: Any, recorded: np.ndarray) -> float:
    ours, recorded = np.asarray(ours), np.asarray(recorded)
    if ours.shape != recorded.shape:
        return float("inf")
    if not ours.size:
        return 0.0
    gap = np.abs(ours.astype(np.float64) - recorded.astype(np.float64)).max()
    return float("inf") if np.isnan(gap) else float(gap)


def close(
    case: str, quantity: str, ours: Any, recorded: np.ndarray, tolerance: float
) -> Row:
    detail = ""
    if np.shape(ours) != np.shape(recorded):
        detail = f"shape {np.shape(ours)}, recorded {np.shape(recorded)}"
    return Row(case, quantity, gap_of(ours, recorded), tolerance, detail)


def same(case: str, quantity: str, ours: Any, recorded: Any) -> Row:
    """Equal or not; for strings, ids and counts."""
    if isinstance(recorded, np.ndarray) and recorded.ndim == 0:
        recorded = recorded.item()
    equal = bool(np.array_equal(np.asarray(ours), np.asarray(recorded)))
    detail = "" if equal else f"{ours!r} != {recorded!r}"[:200]
    return Row(case, quantity, 0.0 if equal else float("inf"), EXACT, detail)


def nchw(x: Any) -> np.ndarray:
    return np.moveaxis(np.asarray(x), -1, 1)


def compare_logits(
    case: str, logits: np.ndarray, record: dict[str, Any], prefix: str
) -> Iterator[Row]:
    def has(name: str) -> bool:
        return f"{prefix}.{name}" in record

    def get(name: str) -> np.ndarray:
        return record[f"{prefix}.{name}"]

    if has("logits"):
        yield close(case, "logits", logits, get("logits"), LOGITS)
    if has("logits_at_pos"):
        ours = logits[get("logits_pos")]
        yield close(case, "logits", ours, get("logits_at_pos"), LOGITS)
    if has("logits_argmax"):
        recorded = get("logits_argmax")
        # A near tie may fall either way: what counts is the gap it costs.
        best = logits.max(-1) - np.take_along_axis(logits, recorded[:, None], 1)[:, 0]
        same = int((logits.argmax(-1) == recorded).sum())
        detail = f"{same}/{recorded.size} equal"
        yield Row(case, "logits_argmax", float(best.max()), LOGITS, detail)
    if has("logits_lse"):
        top = logits.max(-1, keepdims=True)
        lse = (top + np.log(np.exp(logits - top).sum(-1, keepdims=True)))[:, 0]
        yield close(case, "logits_lse", lse, get("logits_lse"), LOGITS)
