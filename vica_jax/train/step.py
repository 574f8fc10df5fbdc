"""One step of training as a jitted function of state, frozen weights and batch.

Only the trainable subtree is differentiated. The loss of a global batch is the sum over
its supervised tokens divided by their number, however it is split over micro-batches
and devices. Micro-batches are a scan inside the step.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vica_jax.models.vica import Vica
from vica_jax.train.lora import LoraConfig, attach
from vica_jax.train.loss import batch_nll
from vica_jax.train.optimizer import Schedule, clip_by_norm
from vica_jax.train.state import TrainState
from vica_jax.typing import Batch, Params

Metrics = dict[str, jax.Array]


def make_train_step(
    model: Vica,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    *,
    clip_norm: float,
    rates: Mapping[str, float],
    shardings: TrainState,
    lora: LoraConfig | None = None,
) -> Callable[[TrainState, Params, Batch], tuple[TrainState, Metrics]]:
    """The jitted ``step(state, frozen, batch) -> (state, metrics)``; state is donated.

    The batch's arrays have a leading axis of micro-batches, ``[A,M,...]``.
    ``shardings`` is the state's. Metrics: ``loss``, ``grad_norm`` (before clipping),
    ``learning_rate/NAME`` of each rate, ``target_tokens``, ``tokens`` (valid ones).
    """
    gradients = make_gradients(model, shardings.params, lora=lora)

    def step(state: TrainState, frozen: Params, batch: Batch):
        loss, grads = gradients(state.params, frozen, batch, _step_key(state, lora))
        grads, norm = clip_by_norm(grads, clip_norm)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = {
            "loss": loss,
            "grad_norm": norm,
            "target_tokens": count_targets(batch),
            "tokens": batch["lengths"].sum(),
        }
        factor = schedule(state.step)
        for name, rate in rates.items():
            metrics[f"learning_rate/{name}"] = rate * factor
        state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            rng=state.rng,
        )
        return state, metrics

    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def make_gradients(
    model: Vica, shardings: Any = None, *, lora: LoraConfig | None = None
) -> Callable[..., tuple[jax.Array, Any]]:
    """``gradients(params, frozen, batch, key) -> (loss, gradients of params)``.

    Not jitted. Parameters are cast to the model's dtype once, before the micro-batches,
    and gradients are those of the cast; their sum over micro-batches is in float32.
    """

    def gradients(params: Params, frozen: Params, batch: Batch, key: Any = None):
        cast = jax.tree.map(lambda x: x.astype(model.dtype), params)
        # At least 1: a batch without a label has no loss and changes nothing here.
        scale = 1.0 / jnp.maximum(count_targets(batch), 1)

        def loss_of(cast, micro, index):
            own = None if key is None else jax.random.fold_in(key, index)
            params = attach(frozen, cast, lora)
            return batch_nll(model, params, micro, own).sum() * scale

        differentiate = jax.value_and_grad(loss_of)
        micro_batches = batch["tokens"].shape[0]
        if micro_batches == 1:
            loss, grads = differentiate(cast, jax.tree.map(lambda x: x[0], batch), 0)
            return loss, _constrain(grads, shardings)

        def accumulate(carry, inputs):
            loss, total = carry
            index, micro = inputs
            more, grads = differentiate(cast, micro, index)
            grads = _constrain(grads, shardings)
            total = jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, grads)
            return (loss + more, total), None

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params)
        first = (jnp.zeros((), jnp.float32), _constrain(zeros, shardings))
        inputs = (jnp.arange(micro_batches), batch)
        return jax.lax.scan(accumulate, first, inputs)[0]

    return gradients


def make_eval_step(
    model: Vica, lora: LoraConfig | None = None
) -> Callable[[Params, Params, Batch], tuple[jax.Array, jax.Array]]:
    """The jitted ``(params, frozen, batch) -> (sum of losses, supervised tokens)``."""

    def step(params: Params, frozen: Params, batch: Batch):
        cast = jax.tree.map(lambda x: x.astype(model.dtype), params)

        def add(total, micro):
            params = attach(frozen, cast, lora)
            return total + batch_nll(model, params, micro).sum(), None

        total, _ = jax.lax.scan(add, jnp.zeros((), jnp.float32), batch)
        return total, count_targets(batch)

    return jax.jit(step)


def count_targets(batch: Batch) -> jax.Array:
    """Supervised tokens of a batch, int32."""
    return (batch["targets"] >= 0).sum()


def _step_key(state: TrainState, lora: LoraConfig | None) -> jax.Array | None:
    """This step's key: a function of the run's key and the step number alone."""
    if lora is None or not lora.dropout:
        return None
    return jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)


def _constrain(grads: Any, shardings: Any) -> Any:
    """Gradients split as their parameters are (a reduce-scatter, not an all-reduce)."""
    if shardings is None:
        return grads
    return jax.lax.with_sharding_constraint(grads, shardings)
