"""What a stage needs on each device, from the compiled program, without weights.

The step is compiled for abstract arrays on as many host devices as the mesh has. Of the
result, state and batch are exact. Temporary memory is an upper bound of an
accelerator's: XLA's CPU compiler multiplies bfloat16 in float32, so that one layer's
operands and products exist in both.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from vica_jax.data.shapes import BatchShape
from vica_jax.models.config import VicaConfig
from vica_jax.train.feed import batch_sharding, batch_shards
from vica_jax.train.loss import VOCAB_CHUNK
from vica_jax.train.optimizer import make_optimizer, make_schedule
from vica_jax.train.run import Stage, make_stage
from vica_jax.train.settings import TrainSettings
from vica_jax.train.state import abstract_state, shardings_of
from vica_jax.train.step import make_train_step

# Else float32 copies of all frozen and cast weights are made ahead of the loops over
# layers, which no backend with bfloat16 products does.
_NO_HOISTING = {
    "xla_disable_hlo_passes": "while-loop-invariant-code-motion,"
    "while-loop-expensive-invariant-code-motion"
}


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Bytes of one training step on each device, by part; they add up to ``total``.

    ``parameters`` are the float32 masters, ``compute_copy`` their cast to the compute
    dtype, ``gradients`` include the float32 sums of several micro-batches, ``logits``
    one chunk of the vocabulary at the supervised positions with its gradient.
    ``activations`` is all other temporary memory: what the backward pass keeps, and the
    largest layer's work.
    """

    parameters: int
    optimizer: int
    frozen: int
    batch: int
    compute_copy: int
    gradients: int
    logits: int
    activations: int

    @property
    def total(self) -> int:
        return sum(vars(self).values())


def measure_step(
    settings: TrainSettings, cfg: VicaConfig, shape: BatchShape
) -> StepMemory:
    """``StepMemory`` of a stage on all of this process's devices (host devices).

    Raises:
      InputError: the settings do not fit the number of devices, or the model.
    """
    stage = make_stage(settings, cfg)
    mesh, plan = stage.mesh, stage.plan
    schedule = make_schedule(settings.optimizer, 100)
    optimizer = make_optimizer(settings.optimizer, plan.groups, schedule)
    state = abstract_state(plan, optimizer, mesh)
    frozen = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        plan.frozen,
        plan.shardings(plan.frozen, mesh),
    )
    batch = abstract_batch(stage, shape)
    step: Any = make_train_step(
        stage.model,
        optimizer,
        schedule,
        clip_norm=settings.optimizer.clip_norm,
        rates=settings.optimizer.rates,
        shardings=shardings_of(state),
        lora=settings.lora,
    )
    with jax.set_mesh(mesh):
        lowered = step.lower(state, frozen, batch)
        analysis = lowered.compile(compiler_options=_NO_HOISTING).memory_analysis()
    masters = local_bytes(state.params)
    compute = masters * np.dtype(settings.dtype).itemsize // 4
    several = stage.accumulation > 1
    rows = max(stage.micro_batch // batch_shards(mesh), 1)
    chunk = min(VOCAB_CHUNK, cfg.llm.vocab_size)
    known = {
        "compute_copy": 0 if settings.dtype == "float32" else compute,
        "gradients": compute + (masters if several else 0),
        "logits": 2 * 4 * rows * shape.targets * chunk // mesh.shape["tensor"],
    }
    return StepMemory(
        parameters=masters,
        optimizer=local_bytes(state.opt_state),
        frozen=local_bytes(frozen),
        batch=local_bytes(batch),
        **known,
        activations=max(analysis.temp_size_in_bytes - sum(known.values()), 0),
    )


def abstract_batch(stage: Stage, shape: BatchShape) -> dict[str, jax.ShapeDtypeStruct]:
    """A global batch ``[A,M,...]`` of that shape, as the feed would place it."""

    def put(own: tuple[int, ...], dtype: np.dtype) -> jax.ShapeDtypeStruct:
        whole = (stage.accumulation, stage.micro_batch, *own[1:])
        sharding = batch_sharding(stage.mesh, whole)
        return jax.ShapeDtypeStruct(whole, dtype, sharding=sharding)

    arrays = shape.arrays(stage.micro_batch, stage.cfg.layout)
    return {name: put(*form) for name, form in arrays.items()}


def local_bytes(tree: Any) -> int:
    """Bytes of one device's share of ShapeDtypeStructs with shardings."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )


def largest_shape(
    settings: TrainSettings,
    cfg: VicaConfig,
    *,
    length: int = 0,
    targets: int = 1024,
    frame_hw: tuple[int, int] = (1080, 1920),
) -> BatchShape:
    """The shape of a batch of whole videos.

    ``length`` positions (0: the longest bucket within the context), ``targets`` of them
    supervised; raw frames for Hiera of height and width ``frame_hw``.
    """
    layout, data = cfg.layout, settings.data
    within = [n for n in data.shapes.lengths if n <= layout.context_length]
    shape = BatchShape(
        length=length or max(within, default=layout.context_length),
        targets=targets,
        frames=layout.num_frames,
        frame_hw=frame_hw if cfg.hiera is not None else (0, 0),
    ).bucketed(layout, data.shapes)
    if cfg.hiera is None or not data.hiera_cache:
        return shape
    return replace(shape, frame_hw=(0, 0), hiera_channels=cfg.hiera_out_width)


def smaller_settings(
    settings: TrainSettings, devices: int
) -> Iterator[tuple[str, TrainSettings]]:
    """Settings that need less and less, each with the command-line flags that make it.

    First what costs time alone, then a coarser first moment, at last the tensor axis.
    None changes what is trained or on what.
    """
    flags: dict[str, Any] = {}

    def change(place: str, **values: Any) -> tuple[str, TrainSettings]:
        nonlocal settings
        own = getattr(settings, place) if place else settings
        own = replace(own, **values)
        settings = replace(settings, **{place: own}) if place else own
        prefix = f"--config.{place}." if place else "--config."
        flags.update({f"{prefix}{name}": value for name, value in values.items()})
        return " ".join(f"{name}={value}" for name, value in flags.items()), settings

    if settings.remat != "full":
        yield change("", remat="full")
    while settings.per_device_batch_size > 1:
        yield change("", per_device_batch_size=settings.per_device_batch_size // 2)
    if settings.mesh.data != 1:
        yield change("mesh", data=1, fsdp=-1)
    if settings.frame_chunk > 2:
        yield change("", frame_chunk=2)
    if settings.optimizer.moment_dtype == "float32":
        yield change("optimizer", moment_dtype="bfloat16")
    ways = 2 * max(settings.mesh.tensor, 1)
    while devices % ways == 0:
        yield change("mesh", data=1, fsdp=-1, tensor=ways)
        ways *= 2
