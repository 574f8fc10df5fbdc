"""The chunked cross entropy against the plain one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vica_jax.train.loss import cross_entropy


def plain(hidden, kernel, targets):
    logits = jnp.einsum("BKD,DV->BKV", hidden, kernel, precision="highest")
    own = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return jax.nn.logsumexp(logits, -1) - own


def draw(seed: int, B: int, K: int, D: int, V: int):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(B, K, D)).astype(np.float32)
    kernel = rng.normal(size=(D, V)).astype(np.float32)
    weight = rng.normal(size=(B, K)).astype(np.float32)
    targets = rng.integers(0, V, (B, K), dtype=np.int32)
    return tuple(jnp.asarray(x) for x in (hidden, kernel, targets, weight))


@settings(max_examples=12)
@given(
    st.integers(0, 99),
    st.integers(1, 2),
    st.integers(1, 5),
    st.integers(1, 40),
    st.integers(1, 17),
)
def test_equals_the_plain_loss_and_gradients(seed, B, K, V, chunk):
    hidden, kernel, targets, weight = draw(seed, B, K, 6, V)

    @functools.partial(jax.jit, static_argnums=0)
    def losses_and_gradients(loss, hidden, kernel):
        losses, pullback = jax.vjp(lambda h, k: loss(h, k, targets), hidden, kernel)
        return losses, *pullback(weight)

    ours = lambda h, k, t: cross_entropy(h, k, t, chunk)
    losses, *gradients = losses_and_gradients(ours, hidden, kernel)
    expected, *wanted = losses_and_gradients(plain, hidden, kernel)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_large_logits_do_not_overflow():
    hidden, kernel, targets, _ = draw(0, 1, 3, 4, 12)
    loss = cross_entropy(1e4 * hidden, kernel, targets, 4)
    assert np.isfinite(loss).all()


@pytest.mark.parametrize("vocabulary", [152064, 151936, 151657])
def test_full_logits_never_exist(vocabulary: int):
    B, K, D = 1, 1024, 256
    shapes = (
        jax.ShapeDtypeStruct((B, K, D), jnp.float32),
        jax.ShapeDtypeStruct((D, vocabulary), jnp.float32),
        jax.ShapeDtypeStruct((B, K), jnp.int32),
    )
    loss = lambda h, k, t: cross_entropy(h, k, t).sum()
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*shapes).compile()
    logits = 4 * B * K * vocabulary
    kernels = 4 * D * vocabulary
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    assert temporaries < 0.35 * logits + 3.1 * kernels
