"""Bytes read from compiled programs are those that arithmetic gives."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from scripts.collectives import collectives, moved_bytes
from vica_jax.sharding import make_mesh

L, D, M, B = 5, 64, 96, 16


def compiled(function, mesh, *arrays):
    """The text of a program for float32 arrays given as (shape, spec)."""
    given = [
        jax.ShapeDtypeStruct(
            shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec))
        )
        for shape, spec in arrays
    ]
    with jax.set_mesh(mesh):
        return jax.jit(function).lower(*given).compile().as_text()


def test_a_product_over_a_split_axis_is_one_all_reduce():
    mesh = make_mesh({"tensor": 8})
    text = compiled(
        lambda x, w: x @ w,
        mesh,
        ((B, D), (None, "tensor")),
        ((D, M), ("tensor", None)),
    )
    (one,) = collectives(text)
    assert (one.kind, one.group, one.operand_bytes) == ("all-reduce", 8, B * M * 4)
    assert one.moved == 2 * B * M * 4 * 7 / 8


def test_weights_split_over_devices_are_gathered():
    mesh = make_mesh({"fsdp": 4, "tensor": 2})

    def function(x, w):
        w = jax.lax.with_sharding_constraint(w, PartitionSpec(None, None))
        return jnp.sin(x) @ w

    text = compiled(function, mesh, ((B, D), ("fsdp", None)), ((D, M), ("fsdp", None)))
    found = collectives(text)
    assert moved_bytes(found)["all-gather"] == D * M * 4 * 3 / 4
    assert {one.group for one in found} == {4}


def test_a_scan_over_layers_gathers_each_of_them():
    mesh = make_mesh({"fsdp": 8})

    def function(x, w):
        def layer(x, w):
            w = jax.lax.with_sharding_constraint(w, PartitionSpec(None, None))
            return jnp.tanh(x @ w), None

        return jax.lax.scan(layer, x, w)[0]

    spec = (None, "fsdp", None)
    text = compiled(function, mesh, ((B, D), ("fsdp", None)), ((L, D, D), spec))
    found = collectives(text)
    assert "while(" in text and all(one.counted for one in found)
    assert moved_bytes(found)["total"] == pytest.approx(L * D * D * 4 * 7 / 8)


def test_one_device_moves_nothing():
    mesh = make_mesh({"fsdp": 1})
    text = compiled(lambda x, w: x @ w, mesh, ((B, D), ()), ((D, M), ()))
    assert collectives(text) == []
