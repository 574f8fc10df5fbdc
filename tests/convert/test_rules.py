"""Ops invert each other bit for bit; the audit reports everything at once."""

import gc
import weakref

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.ops import (
    Conv,
    FusedQKV,
    Identity,
    MergeHeads,
    PosEmbed,
    SplitHeads,
    Transpose,
    contiguous,
    widened,
)
from convert.rules import (
    AuditError,
    ConversionError,
    Ignored,
    Row,
    Rule,
    audit,
    check_finite,
    convert,
    count_parameters,
    expand,
    flatten,
    invert,
    invert_lazily,
    nest,
)

BF16 = np.dtype(ml_dtypes.bfloat16)
F32, F16 = np.dtype(np.float32), np.dtype(np.float16)
side = st.integers(1, 5)


@st.composite
def op_and_shape(draw):
    n, h, d, k = (draw(side) for _ in range(4))
    return draw(
        st.sampled_from(
            [
                (Identity(), (n, d)),
                (Identity(), ()),
                (Transpose(), (n, d)),
                (SplitHeads(n), (n * h, d)),
                (SplitHeads(n), (n * h,)),
                (MergeHeads(n), (d, n * h)),
                (FusedQKV(n), (3 * n * h, d)),
                (FusedQKV(n), (3 * n * h,)),
                (Conv(), (d, 3, k, h)),
                (PosEmbed(), (1, d, k, h)),
            ]
        )
    )


def values(shape: tuple[int, ...], dtype: np.dtype, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


# ------------------------------------------------------------------------- ops
@given(op_and_shape(), st.sampled_from([F32, BF16, F16]), st.integers(0, 9))
def test_inverse_undoes_forward(case, dtype, seed):
    op, shape = case
    x = values(shape, dtype, seed)
    y = op.forward(x)
    assert y.shape == op.native_shape(shape)
    assert op.hf_shape(y.shape) == shape
    assert same_bits(op.inverse(y), x)
    assert same_bits(op.inverse(np.ascontiguousarray(y).reshape(y.shape)), x)
    assert same_bits(op.forward(op.inverse(y)), np.asarray(y))


@given(op_and_shape())
def test_both_directions_are_views(case):
    op, shape = case
    x = values(shape, F32)
    y = op.forward(x)
    assert np.shares_memory(x, y)
    own = np.ascontiguousarray(y).reshape(y.shape)
    assert np.shares_memory(own, op.inverse(own))


@given(
    shape=st.lists(st.sampled_from([0, 1, 2, 3, 300]), max_size=3).map(tuple),
    dtype=st.sampled_from([F32, BF16, np.dtype(np.uint8)]),
    data=st.data(),
)
def test_contiguous_copies_any_view(shape, dtype, data):
    x = (np.arange(np.prod(shape, dtype=int)) % 200).astype(dtype).reshape(shape)
    view = x.transpose(data.draw(st.permutations(range(x.ndim))))
    view = view[:: data.draw(st.sampled_from([1, 2, -1]))] if x.ndim else view
    y = contiguous(view)
    assert y.flags.c_contiguous and same_bits(y, view)
    assert (y is view) == view.flags.c_contiguous


def test_ops_place_every_value_where_it_belongs():
    n, h, d = 2, 3, 4
    w = np.arange(n * h * d).reshape(n * h, d)
    assert SplitHeads(n).forward(w)[3, 1, 2] == w[1 * h + 2, 3]
    assert MergeHeads(n).forward(w.T)[1, 2, 3] == w.T[3, 1 * h + 2]
    assert Transpose().forward(w)[3, 5] == w[5, 3]
    qkv = np.arange(3 * n * h * d).reshape(3 * n * h, d)
    assert FusedQKV(n).forward(qkv)[3, 2, 1, 0] == qkv[2 * n * h + 1 * h + 0, 3]
    assert FusedQKV(n).forward(qkv[:, 0])[2, 1, 0] == qkv[2 * n * h + 1 * h, 0]
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert Conv().forward(kernel)[3, 4, 2, 1] == kernel[1, 2, 3, 4]
    assert PosEmbed().forward(kernel[:1])[3, 4, 2] == kernel[0, 2, 3, 4]


# ---------------------------------------------------------------------- expand
RULES = (
    Rule("top.weight", "top/kernel", Transpose(), "V D"),
    Rule("l.{l}.q.weight", "l/{l}/q/kernel", SplitHeads("N"), "2*N*H D"),
)


def test_expand_fills_layers_sizes_and_prefix():
    sizes = {"V": 7, "D": 4, "N": 2, "H": 3}
    layers = {0: {}, 3: {"D": 8}}
    top, first, last = expand(RULES, sizes, layers, prefix="m.")
    assert top == Row("m.top.weight", "top/kernel", Transpose(), (7, 4))
    assert first == Row("m.l.0.q.weight", "l/0/q/kernel", SplitHeads(2), (12, 4))
    assert last.hf == "m.l.3.q.weight" and last.hf_shape == (12, 8)
    assert last.native_shape == (8, 2, 6)
    assert count_parameters([top, first, last]) == 28 + 48 + 96


def test_expand_names_the_axis_without_a_size():
    with pytest.raises(ConversionError, match=r"axis 'H' of '2\*N\*H'"):
        expand(RULES, {"V": 7, "D": 4, "N": 2}, {0: {}})


# ----------------------------------------------------------------------- audit
ROWS = expand(RULES, {"V": 7, "D": 4, "N": 2, "H": 3}, {0: {}, 1: {}})
FOUND = {row.hf: row.hf_shape for row in ROWS}


def test_audit_counts_what_it_matched_and_ignored():
    found = FOUND | {"l.2.q.weight": (1,), "l.2.q.bias": (1,), "buffer": (3,)}
    ignored = [Ignored("l.{l}.*", "dropped", first=2), Ignored("buffer", "a buffer")]
    report = audit(ROWS, found, ignored)
    assert (report.tensors, report.parameters) == (3, 28 + 2 * 48)
    assert report.ignored == {
        "dropped": ("l.2.q.weight", "l.2.q.bias"),
        "a buffer": ("buffer",),
    }
    assert report.num_ignored == 3
    assert "dropped" in report.summary() and "3 tensors" in report.summary()


def test_audit_reports_every_violation_at_once():
    found = dict(FOUND)
    found["top.weight"] = (4, 7)
    del found["l.0.q.weight"]
    found |= {f"extra.{i}": (1,) for i in range(30)}
    with pytest.raises(AuditError) as caught:
        audit(ROWS, found, [Ignored("other", "x")], where="folder", most=5)
    error, text = caught.value, str(caught.value)
    assert error.missing == ["l.0.q.weight"]
    assert error.wrong_shape == [("top.weight", (7, 4), (4, 7))]
    assert len(error.unexpected) == 30
    first = text.splitlines()[0]
    assert first.startswith("folder: ")
    assert "1 missing, 30 unexpected, 1 wrong shape" in first
    assert "missing: l.0.q.weight" in text
    assert "top.weight: expected [7, 4], found [4, 7]" in text
    assert text.count("unexpected: extra.") == 5 and "and 25 more" in text


def test_audit_refuses_a_table_that_claims_a_tensor_or_leaf_twice():
    twice = [*ROWS, ROWS[0]._replace(hf="other")]
    with pytest.raises(AuditError, match="claimed by two rows: top/kernel"):
        audit(twice, FOUND | {"other": (7, 4)})


def test_a_tensor_that_is_expected_is_never_ignored():
    assert audit(ROWS, FOUND, [Ignored("*", "all")]).num_ignored == 0
    with pytest.raises(AuditError):
        audit(ROWS, {}, [Ignored("*", "all")])


@pytest.mark.parametrize(
    ("ignored", "name", "matches"),
    [
        (Ignored("a.{l}.*", "", first=2), "a.2.x.y", True),
        (Ignored("a.{l}.*", "", first=2), "a.1.x", False),
        (Ignored("a.{l}.*", "", first=2), "a.b.x", False),
        (Ignored("a.*", ""), "a", False),
        (Ignored("a.b", ""), "a.b", True),
        (Ignored("a.b", ""), "a.b.c", False),
        (Ignored("*", "", outside="p."), "p.x", False),
        (Ignored("*", "", outside="p."), "q.x", True),
    ],
)
def test_ignored_templates(ignored, name, matches):
    assert ignored.matches(name) is matches


# ------------------------------------------------------------------ conversion
def tensors(dtype: np.dtype) -> dict[str, np.ndarray]:
    return {row.hf: values(row.hf_shape, dtype, i) for i, row in enumerate(ROWS)}


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
def test_convert_and_invert_keep_every_bit(dtype):
    hf = tensors(dtype)
    native = dict(convert(ROWS, hf.__getitem__))
    assert flatten(nest(native.items())).keys() == native.keys()
    assert {p: x.shape for p, x in native.items()} == {
        row.native: row.native_shape for row in ROWS
    }
    back = dict(invert(ROWS, native.__getitem__))
    assert all(same_bits(back[name], hf[name]) for name in hf)
    lazy = {t.name: t for t in invert_lazily(ROWS, native.__getitem__, dtype)}
    for name, tensor in lazy.items():
        assert (tensor.shape, tensor.dtype) == (hf[name].shape, dtype)
        assert same_bits(tensor.values(), hf[name])


def test_casts_round_to_nearest_even():
    x = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-20], np.float32)
    row = Row("x", "x", Identity(), x.shape)
    ((_, y),) = convert([row], {"x": x}.__getitem__, dtype="bfloat16")
    assert y.dtype == BF16
    expected = np.array([1, 1 + 4 * 2**-8, -1 - 2 * 2**-8], np.float32)
    np.testing.assert_array_equal(y.astype(np.float32), expected)
    ((_, z),) = convert([row], {"x": y}.__getitem__, dtype="float32")
    np.testing.assert_array_equal(z, expected)


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_refused_by_name(dtype, bad):
    hf = tensors(dtype)
    hf["l.1.q.weight"][5, 2] = bad
    stream = convert(ROWS, hf.__getitem__)
    next(stream), next(stream)
    with pytest.raises(ConversionError, match=r"l\.1\.q\.weight holds NaN"):
        next(stream)


def test_the_largest_finite_values_pass():
    for dtype in (F32, BF16, F16):
        top = ml_dtypes.finfo(dtype).max
        check_finite("x", np.array([top, -top, 0], dtype).reshape(1, 3))


def test_a_cast_that_overflows_is_refused():
    x = np.full(4, np.finfo(np.float32).max)
    row = Row("big", "big", Identity(), (4,))
    with pytest.raises(ConversionError, match="big holds NaN or Inf"):
        list(convert([row], {"big": x}.__getitem__, dtype="bfloat16"))


@pytest.mark.parametrize("dtype", ["int8", "int64", "float64", "uint8"])
def test_other_dtypes_are_refused_by_name(dtype):
    row = Row("w", "w", Identity(), (2,))
    with pytest.raises(ConversionError, match=f"tensor w is {dtype}; only float32"):
        list(convert([row], lambda _: np.zeros(2, dtype)))


def test_only_known_casts():
    with pytest.raises(ConversionError, match="cannot cast parameters to int4"):
        list(convert(ROWS, tensors(F32).__getitem__, dtype="int4"))


def test_a_tensor_of_another_shape_than_its_row_is_refused():
    row = Row("w", "tree/w", Identity(), (2, 3))
    with pytest.raises(ConversionError, match=r"tree/w: expected shape \[2, 3\]"):
        list(invert([row], lambda _: np.zeros((3, 2), np.float32)))


def test_the_stream_keeps_no_tensor_alive():
    class Array(np.ndarray):  # plain arrays take no weak references
        pass

    made: list[weakref.ref] = []

    def read(name):
        x = np.zeros(shapes[name], np.float32).view(Array)
        made.append(weakref.ref(x))
        return x

    shapes = {row.hf: row.hf_shape for row in ROWS}
    for item in convert(ROWS, read):
        del item
        gc.collect()
        assert made[-1]() is None
    assert len(made) == len(ROWS)


def test_widened_reads_as_the_cast_would():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((7, 5)).astype(ml_dtypes.bfloat16).T
    wide = widened(values)
    assert (wide.shape, wide.dtype, wide.nbytes) == ((5, 7), np.float32, 140)
    np.testing.assert_array_equal(wide[1:3], values[1:3].astype(np.float32))
    np.testing.assert_array_equal(np.asarray(wide), values.astype(np.float32))
    own = np.ones(3, np.float32)
    assert widened(own) is own
