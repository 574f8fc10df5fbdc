"""AdamW with a rate per group, one schedule, and clipping as torch does them.

The reference's optimiser is torch's AdamW under Hugging Face's cosine schedule: at step
0 of a warm-up the rate is 0.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vica_jax.train.partition import insert, leaves
from vica_jax.train.settings import OptimizerSettings

Schedule = Callable[[jax.Array], jax.Array]


def make_schedule(settings: OptimizerSettings, total_steps: int) -> Schedule:
    """The factor of all rates at a step, 0 .. 1.

    Linear over ``ceil(warmup_ratio * total_steps)`` steps from 0, then half a cosine
    down to 0 at the end (transformers' ``get_cosine_schedule_with_warmup``), or 1
    throughout for ``constant``.
    """
    if settings.schedule == "constant":
        return lambda step: jnp.ones((), jnp.float32)
    warmup = warmup_steps(settings, total_steps)

    def factor(step):
        step = step.astype(jnp.float32)
        rise = step / max(1, warmup)
        # (1 + cos(pi p)) / 2 as a square, which does not cancel near the end.
        left = jnp.maximum(total_steps - step, 0) / max(1, total_steps - warmup)
        fall = jnp.square(jnp.sin(math.pi / 2 * left))
        return jnp.where(step < warmup, rise, fall)

    return factor


def warmup_steps(settings: OptimizerSettings, total_steps: int) -> int:
    return math.ceil(settings.warmup_ratio * total_steps)


def make_optimizer(
    settings: OptimizerSettings, groups: Mapping[str, str], schedule: Schedule
) -> optax.GradientTransformation:
    """AdamW for a nested dict of trainable leaves.

    ``groups`` names each leaf path's rate. The updates are to be added.
    """
    return optax.chain(
        optax.scale_by_adam(
            b1=settings.b1,
            b2=settings.b2,
            eps=settings.eps,
            mu_dtype=settings.moment_dtype,
        ),
        optax.add_decayed_weights(
            settings.weight_decay,
            lambda params: _map_paths(lambda path, _: decays(path), params),
        ),
        _scale_by_rates(settings.rates, groups, schedule),
    )


def decays(path: str) -> bool:
    """Whether weight decay applies: not to biases and layer norms (RMS norms count)."""
    name = path.rsplit("/", 1)[-1]
    return name != "bias" and (name != "scale" or path.startswith("llm/"))


def clip_by_norm(grads: Any, limit: float) -> tuple[Any, jax.Array]:
    """Gradients scaled to a global norm of at most ``limit``, and the norm before.

    torch's rule: the factor is ``limit / (norm + 1e-6)``, at most 1. Limit 0: as is.
    """
    squares = [
        jnp.sum(jnp.square(g.astype(jnp.float32))) for g in jax.tree.leaves(grads)
    ]
    norm = jnp.sqrt(sum(squares, jnp.zeros((), jnp.float32)))
    if not limit:
        return grads, norm
    factor = jnp.minimum(limit / (norm + 1e-6), 1.0)
    return jax.tree.map(lambda g: g.astype(jnp.float32) * factor, grads), norm


def _scale_by_rates(
    rates: Mapping[str, float], groups: Mapping[str, str], schedule: Schedule
) -> optax.GradientTransformation:
    def init(params):
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        factor = schedule(state.count)
        scaled = _map_paths(
            lambda path, u: (-rates[groups[path]] * factor * u).astype(u.dtype), updates
        )
        return scaled, optax.ScaleByScheduleState(count=state.count + 1)

    return optax.GradientTransformation(init, update)


def _map_paths(function: Callable[[str, Any], Any], tree: Any) -> Any:
    mapped: dict[str, Any] = {}
    for path, leaf in leaves(tree):
        insert(mapped, path, function(path, leaf))
    return mapped
