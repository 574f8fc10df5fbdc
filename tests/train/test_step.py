"""One training step: what trains, what stays, and that no split changes the result."""

import functools

import jax
import jax.numpy as jnp
import micro
import numpy as np
import pytest

from vica_jax.models.vica import Vica, init_vica
from vica_jax.sharding import make_mesh
from vica_jax.train.optimizer import make_optimizer, make_schedule
from vica_jax.train.partition import leaves, split
from vica_jax.train.settings import OptimizerSettings
from vica_jax.train.state import TrainState, abstract_state, make_plan, shardings_of
from vica_jax.train.step import (
    make_eval_step,
    make_gradients,
    make_train_step,
)

MODEL = Vica(micro.CFG, jnp.float32, scan=True, frame_chunk=2)


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(np.asarray, init_vica(micro.CFG, jax.random.key(1), scan=True))


BATCH = micro.batch(micro.examples(4))


@functools.cache
def compiled(table):
    """Plan, optimiser, shardings and a jitted step of a stage."""
    rates = micro.RATES if table == micro.TABLE else {"base": 1e-3}
    settings = OptimizerSettings(rates=rates, schedule="constant")
    plan = make_plan(micro.CFG, table, rates, dtype=jnp.float32)
    schedule = make_schedule(settings, 10)
    optimizer = make_optimizer(settings, plan.groups, schedule)
    shardings = shardings_of(abstract_state(plan, optimizer, make_mesh({"fsdp": 1})))
    step = make_train_step(
        MODEL,
        optimizer,
        schedule,
        clip_norm=settings.clip_norm,
        rates=rates,
        shardings=shardings,
    )
    return plan, optimizer, shardings, step


def start(params, table=micro.TABLE):
    """State, frozen weights and the step."""
    plan, optimizer, shardings, step = compiled(table)
    trainable, frozen = split(params, plan.groups)
    trainable = jax.tree.map(jnp.array, trainable)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=trainable,
        opt_state=optimizer.init(trainable),
        rng=jax.random.key_data(jax.random.key(0)),
    )
    # Placed as a step leaves them, or the second step would be compiled anew.
    return jax.device_put(state, shardings), frozen, step


def test_frozen_weights_have_no_state_and_stay(params):
    state, frozen, step = start(params)
    before = jax.tree.map(np.asarray, frozen)
    losses = []
    for _ in range(3):
        state, metrics = step(state, frozen, BATCH)
        losses.append(float(metrics["loss"]))
    assert losses[2] < losses[0]
    assert int(metrics["target_tokens"]) == (BATCH["targets"] >= 0).sum()
    assert int(metrics["tokens"]) == BATCH["lengths"].sum()
    assert float(metrics["learning_rate/siglip"]) == pytest.approx(2e-4)
    assert "hiera" not in state.params and list(frozen) == ["hiera"]
    jax.tree.map(np.testing.assert_array_equal, frozen, before)
    moments = jax.tree.leaves(state.opt_state)
    sizes = sum(x.size for x in jax.tree.leaves(state.params))
    assert sum(x.size for x in moments) == 2 * sizes + 2  # and two counters


def test_every_trainable_leaf_moves_but_the_unread_one(params):
    state, frozen, step = start(params)
    state, _ = step(state, frozen, BATCH)
    before = dict(leaves(params))
    still = {
        path for path, new in leaves(state.params) if np.array_equal(new, before[path])
    }
    # The reference's checkpoint holds it, nothing reads it.
    assert still == {"siglip/post_norm/bias", "siglip/post_norm/scale"}


def test_micro_batches_do_not_change_loss_or_gradients(params):
    rows = micro.examples(4)
    plan = make_plan(micro.CFG, micro.TABLE, micro.RATES, dtype=jnp.float32)
    trainable, frozen = split(params, plan.groups)
    run = jax.jit(make_gradients(MODEL))
    whole = run(trainable, frozen, micro.batch(rows))
    parts = run(trainable, frozen, micro.batch(rows, 4))
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-6)
    for (path, a), (_, b) in zip(leaves(parts[1]), leaves(whole[1]), strict=True):
        limit = 1e-5 * np.abs(b).max() + 1e-7  # key biases have noise alone
        np.testing.assert_allclose(a, b, atol=limit, err_msg=path)


def test_a_batch_without_labels_has_no_loss(params):
    batch = {**BATCH, "targets": np.full_like(BATCH["targets"], -1)}
    state, frozen, step = start(params)
    before = jax.tree.map(np.asarray, state.params)
    state, metrics = step(state, frozen, batch)
    assert float(metrics["loss"]) == 0 and float(metrics["grad_norm"]) == 0
    jax.tree.map(np.testing.assert_array_equal, state.params, before)


def test_validation_is_the_loss_without_the_update(params):
    state, frozen, step = start(params)
    total, count = make_eval_step(MODEL)(state.params, frozen, BATCH)
    _, metrics = step(state, frozen, BATCH)
    assert float(total) / int(count) == pytest.approx(float(metrics["loss"]), rel=1e-6)


def test_bfloat16_keeps_float32_masters(params):
    model = Vica(micro.CFG, jnp.bfloat16, scan=True)
    plan = make_plan(micro.CFG, micro.TABLE, micro.RATES, dtype=jnp.bfloat16)
    trainable, frozen = split(params, plan.groups)
    frozen = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), frozen)
    batch = micro.batch(micro.examples(2))
    shapes = jax.eval_shape(make_gradients(model), trainable, frozen, batch)
    assert {g.dtype.name for g in jax.tree.leaves(shapes[1])} == {"bfloat16"}
    assert {x.dtype.name for x in jax.tree.leaves(plan.trainable)} == {"float32"}
    assert {x.dtype.name for x in jax.tree.leaves(plan.frozen)} == {"bfloat16"}


def test_only_the_projector_is_differentiated_in_stage_1(params):
    table = "hiera_projector/.*=base, .*=frozen"
    state, frozen, step = start(params, table)
    assert [*state.params] == ["hiera_projector"]
    before = jax.tree.map(np.asarray, frozen)
    state, metrics = step(state, frozen, BATCH)
    jax.tree.map(np.testing.assert_array_equal, frozen, before)
    assert float(metrics["grad_norm"]) > 0
