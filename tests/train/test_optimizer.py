"""AdamW, schedule and clipping against torch's and transformers' rules, by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vica_jax.train.optimizer import (
    clip_by_norm,
    decays,
    make_optimizer,
    make_schedule,
)
from vica_jax.train.settings import (
    CheckpointSettings,
    MeshSettings,
    OptimizerSettings,
    SettingsError,
)


def adamw(params, grads, rates, *, steps, decay, factor):
    """AdamW as torch documents it, in float64."""
    m = {k: np.zeros_like(v) for k, v in params.items()}
    v = {k: np.zeros_like(x) for k, x in params.items()}
    for t in range(1, steps + 1):
        for k in params:
            rate = rates[k] * factor(t - 1)
            params[k] = params[k] * (1 - rate * (decay if decays(k) else 0))
            m[k] = 0.9 * m[k] + 0.1 * grads[t - 1][k]
            v[k] = 0.999 * v[k] + 0.001 * grads[t - 1][k] ** 2
            hat = v[k] / (1 - 0.999**t)
            params[k] = params[k] - rate * m[k] / (1 - 0.9**t) / (np.sqrt(hat) + 1e-8)
    return params


def test_two_groups_follow_their_rates():
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)}
    grads = [{k: rng.normal(size=v.shape) for k, v in params.items()} for _ in range(6)]
    settings = OptimizerSettings(
        rates={"base": 1e-2, "slow": 1e-3}, warmup_ratio=0.4, weight_decay=0.1
    )
    schedule = make_schedule(settings, 6)
    optimizer = make_optimizer(settings, {"kernel": "base", "bias": "slow"}, schedule)
    ours = jax.tree.map(jnp.float32, params)
    state = optimizer.init(ours)
    for gradient in grads:
        gradient = jax.tree.map(jnp.float32, gradient)
        updates, state = optimizer.update(gradient, state, ours)
        ours = jax.tree.map(jnp.add, ours, updates)
    factor = lambda step: float(schedule(jnp.int32(step)))
    rates = {"kernel": 1e-2, "bias": 1e-3}
    want = adamw(dict(params), grads, rates, steps=6, decay=0.1, factor=factor)
    for name in params:
        np.testing.assert_allclose(ours[name], want[name], rtol=2e-6, atol=2e-7)


def test_the_schedule_is_transformers():
    settings = OptimizerSettings(rates={}, warmup_ratio=0.03)
    factor = make_schedule(settings, 100)
    for step in range(100):
        warmup = 3
        progress = (step - warmup) / (100 - warmup)
        cosine = max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))
        want = step / warmup if step < warmup else cosine
        assert float(factor(jnp.int32(step))) == pytest.approx(want, rel=1e-5)
    assert float(factor(jnp.int32(120))) == 0


def test_clipping_is_torchs():
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    clipped, norm = clip_by_norm(grads, 1.0)
    assert float(norm) == pytest.approx(5)
    assert float(clipped["a"][0]) == pytest.approx(3 / (5 + 1e-6))
    untouched, _ = clip_by_norm(grads, 10.0)
    assert float(untouched["a"][0]) == 3
    assert clip_by_norm(grads, 0.0)[0] is grads


def test_mesh_sizes():
    assert MeshSettings().sizes(8) == {"data": 1, "fsdp": 8, "tensor": 1}
    assert MeshSettings(data=-1, fsdp=2, tensor=2).sizes(8)["data"] == 2
    for wrong in (
        MeshSettings(fsdp=4),
        MeshSettings(fsdp=3, data=-1),
        MeshSettings(data=-1),
        MeshSettings(fsdp=0),
        MeshSettings(tensor=-2),
    ):
        with pytest.raises(SettingsError, match="mesh"):
            wrong.sizes(8)


def test_saves_and_kept_saves():
    settings = CheckpointSettings(every=0.01, keep_every=0.05)
    assert settings.save_steps(1000) == 10
    assert settings.keep_steps(1000) == 50
    assert CheckpointSettings(every_steps=7).keep_steps(100) == 7
    assert CheckpointSettings(keep_every=0).keep_steps(100) is None
    assert CheckpointSettings().save_steps(3) == 1
