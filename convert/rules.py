"""Rules that carry a Hugging Face state dict into our parameter tree and back.

A ``Rule`` names one family of tensors on both sides by templates (``{l}`` is the layer
number), an ``Op`` that rearranges the axes, and the HF shape in axis letters. The same
row serves both directions. ``expand`` turns rules into concrete ``Row``s, ``audit``
proves that rows and tensors match one to one before any tensor is read, ``convert`` and
``invert`` stream tensors one at a time.

Axis letters: D width, N heads, K kv heads, H head dim, M mlp width, V vocabulary,
P positions, C channels. A native path is a string joined by ``/``.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike

from convert.ops import ConversionError, Op, Shape, axis_size

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = (np.dtype(np.float32), BFLOAT16, np.dtype(np.float16))
CASTS = {"float32": np.dtype(np.float32), "bfloat16": BFLOAT16}
SCAN = 1 << 22  # elements looked at together when searching for NaN and Inf


class AuditError(ConversionError):
    """Rows and tensors do not match; the message lists every violation.

    ``missing`` and ``unexpected`` are names, ``wrong_shape`` holds
    ``(name, expected, found)`` and ``duplicates`` names claimed by two rows.
    """

    def __init__(self, message: str, *, missing, unexpected, wrong_shape, duplicates):
        super().__init__(message)
        self.missing: list[str] = missing
        self.unexpected: list[str] = unexpected
        self.wrong_shape: list[tuple[str, Shape, Shape]] = wrong_shape
        self.duplicates: list[str] = duplicates


# ----------------------------------------------------------------------- rules
@dataclass(frozen=True)
class Rule:
    """One line of a table; ``shape`` is the HF shape, such as ``"N*H D"``."""

    hf: str
    native: str
    op: Op
    shape: str


class Row(NamedTuple):
    """One tensor: its name and shape on the HF side, its path and op on ours."""

    hf: str
    native: str
    op: Op
    hf_shape: Shape

    @property
    def native_shape(self) -> Shape:
        return self.op.native_shape(self.hf_shape)


@dataclass(frozen=True)
class Ignored:
    """Tensors that a checkpoint may hold and we leave out, and why.

    In ``template`` a dot-separated part ``{l}`` stands for a layer number of at least
    ``first``, and a final ``*`` for any rest. Names under ``outside`` are never meant.
    """

    template: str
    reason: str
    first: int = 0
    outside: str = ""

    def matches(self, name: str) -> bool:
        if self.outside and name.startswith(self.outside):
            return False
        wanted, parts = self.template.split("."), name.split(".")
        if wanted[-1] == "*" and len(parts) >= len(wanted):
            wanted, parts = wanted[:-1], parts[: len(wanted) - 1]
        return len(wanted) == len(parts) and all(
            a == b or (a == "{l}" and b.isdecimal() and int(b) >= self.first)
            for a, b in zip(wanted, parts, strict=True)
        )


def expand(
    rules: Iterable[Rule],
    sizes: Mapping[str, int],
    layers: Mapping[int, Mapping[str, int]] | None = None,
    *,
    prefix: str = "",
) -> list[Row]:
    """Concrete rows of a table.

    Args:
      rules: templates.
      sizes: the axis letters' sizes.
      layers: for rules with ``{l}``, the layer numbers and the letters whose size is
        that layer's own.
      prefix: put before every HF name.
    """
    rows = []
    for rule in rules:
        scopes = (layers or {}) if "{l}" in rule.hf else {None: {}}
        for layer, own in scopes.items():
            scope = {**sizes, **own}
            hf, native = (t.replace("{l}", str(layer)) for t in (rule.hf, rule.native))
            shape = tuple(axis_size(axis, scope) for axis in rule.shape.split())
            rows.append(Row(prefix + hf, native, rule.op.bind(scope), shape))
    return rows


def count_parameters(rows: Iterable[Row]) -> int:
    return sum(prod(row.hf_shape) for row in rows)


# ----------------------------------------------------------------------- audit
@dataclass(frozen=True)
class AuditReport:
    """What a clean audit found; ``ignored`` maps each reason to its tensor names."""

    tensors: int
    parameters: int
    ignored: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def num_ignored(self) -> int:
        return sum(len(names) for names in self.ignored.values())

    def summary(self) -> str:
        """One line for the log, then one for each reason to ignore something."""
        lines = [f"{self.tensors} tensors, {self.parameters:,} parameters matched"]
        for reason, names in self.ignored.items():
            lines.append(f"ignored {len(names)} ({names[0]}, ...): {reason}")
        return "\n".join(lines)


def audit(
    rows: Sequence[Row],
    found: Mapping[str, Shape],
    ignored: Sequence[Ignored] = (),
    *,
    where: str = "checkpoint",
    most: int = 12,
) -> AuditReport:
    """Prove that rows and tensors correspond one to one, without reading a tensor.

    Raises:
      AuditError: lists tensors that are missing, unexpected or of another shape and
        names that two rows claim: all of them at once, each kind cut after ``most``
        lines with the number left out.
    """
    expected = {row.hf: row.hf_shape for row in rows}
    duplicates = sorted(
        name
        for side in ([r.hf for r in rows], [r.native for r in rows])
        for name, count in Counter(side).items()
        if count > 1
    )
    missing = [name for name in expected if name not in found]
    unexpected: list[str] = []
    reasons: dict[str, list[str]] = {}
    for name in found:
        if name not in expected:
            why = next((i.reason for i in ignored if i.matches(name)), None)
            (unexpected if why is None else reasons.setdefault(why, [])).append(name)
    wrong = [
        (name, shape, tuple(found[name]))
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != shape
    ]
    kinds = {
        "missing": missing,
        "unexpected": unexpected,
        "wrong shape": [
            f"{n}: expected {list(e)}, found {list(f)}" for n, e, f in wrong
        ],
        "claimed by two rows": duplicates,
    }
    if any(kinds.values()):
        raise AuditError(
            _violations(where, kinds, most),
            missing=missing,
            unexpected=unexpected,
            wrong_shape=wrong,
            duplicates=duplicates,
        )
    return AuditReport(
        tensors=len(expected),
        parameters=count_parameters(rows),
        ignored={reason: tuple(names) for reason, names in reasons.items()},
    )


def _violations(where: str, kinds: Mapping[str, list[str]], most: int) -> str:
    counts = ", ".join(f"{len(lines)} {kind}" for kind, lines in kinds.items() if lines)
    text = [
        f"{where}: the tensors do not fit its config.json ({counts}; take both from "
        "one complete copy of the checkpoint)"
    ]
    for kind, lines in kinds.items():
        text += [f"  {kind}: {line}" for line in lines[:most]]
        if len(lines) > most:
            text.append(f"  {kind}: ... and {len(lines) - most} more")
    return "\n".join(text)


# ------------------------------------------------------------------ conversion
def convert(
    rows: Iterable[Row],
    read: Callable[[str], np.ndarray],
    *,
    dtype: DTypeLike | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """HF to native, one ``(native_path, array)`` at a time.

    ``read`` gives the tensor of an HF name. Values keep their bits unless ``dtype``
    ("float32" or "bfloat16") asks for a cast. Arrays are views of what was read where
    they can be (``ops.contiguous`` copies one fast); the iterator keeps none alive.

    Raises:
      ConversionError: a tensor that is not bf16, f16 or f32, holds NaN or Inf, or has
        another shape than its row; the message names it.
    """
    target = float_dtype(dtype)
    for row in rows:
        yield row.native, _take(row.hf, read, row.hf_shape, target, row.op.forward)


def invert(
    rows: Iterable[Row],
    leaf: Callable[[str], np.ndarray],
    *,
    dtype: DTypeLike | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Native to HF, one ``(hf_name, array)`` at a time; ``leaf`` reads a native path.

    Raises:
      ConversionError: as ``convert``.
    """
    target = float_dtype(dtype)
    for row in rows:
        shape = row.native_shape
        yield row.hf, _take(row.native, leaf, shape, target, row.op.inverse)


class LazyTensor(NamedTuple):
    """A tensor whose size is known and whose values are made when asked for."""

    name: str
    shape: Shape
    dtype: np.dtype
    values: Callable[[], np.ndarray]


def invert_lazily(
    rows: Iterable[Row],
    leaf: Callable[[str], np.ndarray],
    dtype: DTypeLike | Callable[[str], DTypeLike],
) -> Iterator[LazyTensor]:
    """Native to HF for a writer that needs every size before the first tensor.

    ``dtype`` is what all tensors are cast to, or a function that tells the dtype of a
    native path (values then keep their bits).
    """
    for row in rows:
        own = dtype(row.native) if callable(dtype) else dtype
        target = float_dtype(own, casts=FLOATS)
        assert target is not None

        def values(row=row, target=target):
            shape = row.native_shape
            return _take(row.native, leaf, shape, target, row.op.inverse)

        yield LazyTensor(row.hf, row.hf_shape, target, values)


def hf_tensors(tree: Mapping[str, Any], rows: Iterable[Row]) -> dict[str, np.ndarray]:
    """A parameter tree, or a part of one (gradients, say), as HF tensors by name."""
    leaves = flatten(tree)
    return {
        row.hf: np.asarray(row.op.inverse(np.asarray(leaves[row.native])))
        for row in rows
        if row.native in leaves
    }


def float_dtype(
    dtype: DTypeLike | None, casts: Sequence[np.dtype] = tuple(CASTS.values())
) -> np.dtype | None:
    """The numpy dtype to cast to, None for none.

    Raises:
      ConversionError: not one of ``casts``.
    """
    if dtype is None:
        return None
    wanted = BFLOAT16 if isinstance(dtype, str) and dtype == "bfloat16" else dtype
    try:
        found = np.dtype(wanted)
    except TypeError:
        found = None
    if found not in casts:
        names = ", ".join(d.name for d in casts)
        raise ConversionError(f"cannot cast parameters to {dtype}; choose from {names}")
    return found


def _take(name, read, shape, target, rearrange) -> np.ndarray:
    x = np.asarray(read(name))
    if x.shape != shape:
        raise ConversionError(
            f"tensor {name}: expected shape {list(shape)}, found {list(x.shape)}"
        )
    return rearrange(check_finite(name, cast(name, x, target)))


def cast(name: str, x: np.ndarray, target: np.dtype | None) -> np.ndarray:
    """``x`` as ``target`` (no copy when it already is); only floats are parameters."""
    if x.dtype not in FLOATS:
        raise ConversionError(
            f"tensor {name} is {x.dtype.name}; only float32, bfloat16 and float16 are "
            "converted (a quantised checkpoint has to be dequantised first)"
        )
    with np.errstate(over="ignore"):  # an overflow is reported as Inf, with its name
        return x if target is None else x.astype(target, copy=False)


def check_finite(name: str, x: np.ndarray) -> np.ndarray:
    """``x`` itself, or ConversionError naming the tensor that holds NaN or Inf."""
    # A float is NaN or Inf when all its exponent bits are set: an integer test, many
    # times faster than isfinite on bfloat16, and in slices so that no mask of the
    # tensor's own size is made.
    bits = np.uint32 if x.dtype.itemsize == 4 else np.uint16
    exponent = bits(np.array(np.inf, x.dtype).view(bits))
    flat = x.ravel(order="K")  # a view in whatever order the values lie
    for start in range(0, flat.size, SCAN):
        part = flat[start : start + SCAN].view(bits)
        if ((part & exponent) == exponent).any():
            raise ConversionError(
                f"tensor {name} holds NaN or Inf values: take an undamaged copy"
            )
    return x


# ------------------------------------------------------------------------ tree
def nest(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The parameter tree of ``(native_path, leaf)`` pairs."""
    tree: dict[str, Any] = {}
    for path, leaf in items:
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{native_path: leaf}`` of a parameter tree."""
    flat: dict[str, Any] = {}
    for name, node in tree.items():
        path = prefix + name
        flat |= flatten(node, path + "/") if isinstance(node, Mapping) else {path: node}
    return flat
