"""A stage of training on this process's devices: model, mesh, plan and batch sizes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vica_jax.data.example import Example
from vica_jax.errors import InputError
from vica_jax.models.config import VicaConfig
from vica_jax.models.vica import Vica
from vica_jax.sharding import make_mesh
from vica_jax.train.features import hiera_hash
from vica_jax.train.feed import batch_shards
from vica_jax.train.flops import sample_flops
from vica_jax.train.optimizer import make_optimizer, make_schedule
from vica_jax.train.settings import TrainSettings
from vica_jax.train.state import (
    Plan,
    TrainState,
    abstract_state,
    make_plan,
    shardings_of,
)
from vica_jax.train.step import make_train_step


class RunError(InputError):
    """A run that cannot start or go on as asked."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is fixed before the first step: model, mesh, plan and batch sizes."""

    settings: TrainSettings
    cfg: VicaConfig
    mesh: Mesh
    plan: Plan
    model: Vica
    accumulation: int
    hiera_hash: str = ""  # of the weights whose cached features are read

    @property
    def micro_batch(self) -> int:
        return self.settings.global_batch_size // self.accumulation


def make_stage(settings: TrainSettings, cfg: VicaConfig) -> Stage:
    """A stage for a model on this process's devices; allocates nothing."""
    mesh = make_mesh(settings.mesh.sizes(len(jax.devices())))
    cfg = stage_config(settings, cfg)
    return Stage(
        settings=settings,
        cfg=cfg,
        mesh=mesh,
        plan=make_plan(
            cfg,
            settings.trainable,
            settings.optimizer.rates,
            dtype=settings.dtype,
            lora=settings.lora,
        ),
        model=make_model(settings, cfg),
        accumulation=settings.accumulation(batch_shards(mesh)),
    )


def cached_hiera(stage: Stage, base: Path) -> str:
    """The name of the frozen Hiera whose features are cached.

    Raises:
      RunError: there is no Hiera, or it trains.
    """
    hiera = stage.cfg.hiera
    if hiera is None:
        raise RunError("data.hiera_cache is set, but this model has no Hiera")
    if any(path.startswith("hiera/") for path in stage.plan.groups):
        raise RunError(
            "data.hiera_cache is set, but Hiera trains, so its features change: leave "
            "the cache out, or freeze hiera/.* in the stage's table"
        )
    return hiera_hash(base, hiera, stage.settings.dtype)


def make_model(settings: TrainSettings, cfg: VicaConfig) -> Vica:
    """The model as training runs it: stacked, with recomputation."""
    return Vica(
        cfg,
        jnp.dtype(settings.dtype),
        scan=True,
        frame_chunk=settings.frame_chunk,
        remat=settings.remat,
    )


@dataclass(frozen=True, kw_only=True)
class Program:
    """The optimiser, the state's shapes and shardings, and the jitted step."""

    optimizer: optax.GradientTransformation
    state: TrainState
    step: Any  # jitted; may be lowered too


def make_program(stage: Stage, total_steps: int) -> Program:
    """What a stage runs for ``total_steps``; nothing is allocated or compiled."""
    settings = stage.settings
    schedule = make_schedule(settings.optimizer, total_steps)
    optimizer = make_optimizer(settings.optimizer, stage.plan.groups, schedule)
    state = abstract_state(stage.plan, optimizer, stage.mesh)
    step = make_train_step(
        stage.model,
        optimizer,
        schedule,
        clip_norm=settings.optimizer.clip_norm,
        rates=settings.optimizer.rates,
        shardings=shardings_of(state),
        lora=settings.lora,
    )
    return Program(optimizer=optimizer, state=state, step=step)


def stage_config(settings: TrainSettings, cfg: VicaConfig) -> VicaConfig:
    """The checkpoint's config with this stage's frame count and context length."""
    layout = replace(cfg.layout, num_frames=settings.data.num_frames)
    if settings.context_length:
        layout = replace(layout, context_length=settings.context_length)
    return cfg.with_layout(layout)


def make_flops(stage: Stage) -> Callable[[Sequence[Example]], float]:
    """Model FLOPs of training on some examples, their padding not counted."""
    of = {
        lora: frozenset(
            path.split("/")[0]
            for path in stage.plan.groups
            if path.endswith(("/lora_a", "/lora_b")) == lora
        )
        for lora in (False, True)
    }
    layout = stage.cfg.layout

    def flops(examples: Sequence[Example]) -> float:
        total = 0.0
        for example in examples:
            videos = [m for m in example.media if m.kind == "video"]
            images = [m for m in example.media if m.kind != "video"]
            frames = sum(len(m.siglip) for m in videos)
            total += sample_flops(
                stage.cfg,
                length=min(example.length(layout), layout.context_length),
                frames=frames,
                views=sum(len(m.siglip) for m in images),
                hiera_frames=layout.num_hiera_frames(frames) if frames else 0,
                hiera_images=len(images) if layout.has_hiera else 0,
                targets=sum(map(sum, example.supervised)),
                trainable=of[False],
                adapted=of[True],
                cached_hiera=bool(stage.settings.data.hiera_cache),
            )
        return total

    return flops
