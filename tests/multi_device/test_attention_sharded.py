"""Eight fake devices: attention's gradients stay split, nothing is sent."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from vica_jax.models.blockwise import blockwise
from vica_jax.sharding import make_mesh, parse_mesh, spec

COLLECTIVE = r"(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"
AXES = ("batch", "length", "kv_heads", "head_dim")


def pull(q, k, v, g):
    layer = functools.partial(blockwise, causal=True, query_rows=32, key_block=16)
    return jax.vjp(layer, q, k, v)[1](g)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    return [
        jnp.asarray(rng.standard_normal((4, 50, heads, 8)), jnp.float32)
        for heads in (8, 4, 4, 8)
    ]


@pytest.mark.parametrize("text", ["fsdp:2,tensor:4", "data:2,fsdp:2,tensor:2"])
def test_gradients_equal_one_device(text, inputs):
    expected = jax.jit(pull)(*inputs)
    mesh = make_mesh(parse_mesh(text))
    shardings = [NamedSharding(mesh, spec(AXES, x.shape, mesh)) for x in inputs]
    with jax.set_mesh(mesh):
        split = [jax.device_put(x, s) for x, s in zip(inputs, shardings, strict=True)]
        compiled = jax.jit(pull).lower(*split).compile()
        actual = compiled(*split)
    for x, y, s in zip(actual, expected, shardings, strict=False):
        assert np.linalg.norm(x - y) <= 1e-5 * np.linalg.norm(y)
        assert x.sharding.is_equivalent_to(s, x.ndim)
    assert not re.search(COLLECTIVE, compiled.as_text())


def test_more_devices_than_kv_heads(inputs):
    expected = jax.jit(pull)(*inputs)
    mesh = make_mesh({"tensor": 8})
    with jax.set_mesh(mesh):
        split = [
            jax.device_put(x, NamedSharding(mesh, spec(AXES, x.shape, mesh)))
            for x in inputs
        ]
        actual = jax.jit(pull)(*split)
    for x, y in zip(actual, expected, strict=True):
        assert np.linalg.norm(x - y) <= 1e-5 * np.linalg.norm(y)
