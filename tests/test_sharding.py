"""Logical axes to mesh axes: parsing, divisibility, errors."""

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from vica_jax.sharding import RULES, MeshError, declare, make_mesh, parse_mesh, spec


class FakeMesh:
    def __init__(self, **shape):
        self.shape = shape


def test_parse():
    assert parse_mesh("fsdp:2,tensor:4") == {"fsdp": 2, "tensor": 4}


@pytest.mark.parametrize(
    "text", ["", "fsdp", "fsdp:0", "fsdp:x", "rows:2", "fsdp:2,fsdp:2"]
)
def test_parse_refuses(text):
    with pytest.raises(MeshError, match="--mesh"):
        parse_mesh(text)


def test_more_devices_than_there_are():
    count = len(jax.devices()) + 1
    with pytest.raises(MeshError, match=f"needs {count} devices"):
        make_mesh({"fsdp": count})


def test_an_axis_that_does_not_divide_is_left_out():
    mesh = FakeMesh(fsdp=2, tensor=4)
    axes = ("embed", "kv_heads", "head_dim")
    assert spec(axes, (64, 4, 16), mesh) == P(("fsdp",), ("tensor",), None)
    assert spec(axes, (64, 2, 16), mesh) == P(("fsdp",), None, None)
    assert spec(axes, (63, 4, 16), mesh) == P(None, ("tensor",), None)


@given(
    sizes=st.lists(st.integers(1, 48), min_size=3, max_size=3),
    axes=st.lists(st.sampled_from([*RULES, None]), min_size=3, max_size=3),
    mesh=st.fixed_dictionaries(
        {
            "data": st.integers(1, 3),
            "fsdp": st.integers(1, 4),
            "tensor": st.integers(1, 4),
        }
    ),
)
def test_specs_are_legal(sizes, axes, mesh):
    """Every mesh axis at most once, and every split divides its dimension."""
    result = spec(tuple(axes), tuple(sizes), FakeMesh(**mesh))
    # PartitionSpec unwraps a tuple of one name.
    splits = [(e,) if isinstance(e, str) else e or () for e in result]
    used = [name for names in splits for name in names]
    assert len(used) == len(set(used))
    for size, names in zip(sizes, splits, strict=True):
        ways = 1
        for name in names:
            ways *= mesh[name]
        assert size % ways == 0


def test_unknown_axes_are_refused():
    with pytest.raises(ValueError, match="unknown logical axis 'rows'"):
        declare(jax.nn.initializers.zeros, ("rows",))
