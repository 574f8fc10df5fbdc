"""What a stage needs on each device, from the compiled program, without weights.

The step is compiled for abstract arrays on as many host devices as the mesh has. Of the
result, state and batch are exact. Temporary memory is an upper bound of an
accelerator's: XLA's CPU compiler multiplies bfloat16 in float32, so that one layer's
operands and products exist in both.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from vica_jax.data.shapes import BatchShape
from vica_jax.errors import InputError
from vica_jax.models.config import VicaConfig
from vica_jax.sharding import local_bytes
from vica_jax.train.feed import batch_sharding, batch_shards
from vica_jax.train.loss import VOCAB_CHUNK
from vica_jax.train.settings import TrainSettings
from vica_jax.train.stage import Stage, make_program, make_stage

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
    program = make_program(stage, total_steps=100)  # their number changes no size
    frozen = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        plan.frozen,
        plan.shardings(plan.frozen, mesh),
    )
    batch = abstract_batch(stage, shape)
    with jax.set_mesh(mesh):
        lowered = program.step.lower(program.state, frozen, batch)
        analysis = lowered.compile(compiler_options=_NO_HOISTING).memory_analysis()
    masters = local_bytes(program.state.params)
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
        optimizer=local_bytes(program.state.opt_state),
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


def savings(settings: TrainSettings, devices: int) -> list[dict[str, Any]]:
    """Changes that need less memory, in the order to try them: ``{"mesh.tensor": 2}``.

    First what costs time alone, then a coarser first moment, at last the tensor axis.
    None changes what is trained or on what.
    """
    found: list[dict[str, Any]] = []
    if settings.remat != "full":
        found.append({"remat": "full"})
    size = settings.per_device_batch_size
    while size > 1:
        size //= 2
        found.append({"per_device_batch_size": size})
    if settings.mesh.data != 1:
        found.append({"mesh.data": 1, "mesh.fsdp": -1})
    if settings.frame_chunk > 2:
        found.append({"frame_chunk": 2})
    if settings.optimizer.moment_dtype == "float32":
        found.append({"optimizer.moment_dtype": "bfloat16"})
    ways = 2 * max(settings.mesh.tensor, 1)
    while devices % ways == 0:
        found.append({"mesh.data": 1, "mesh.fsdp": -1, "mesh.tensor": ways})
        ways *= 2
    return found


def with_changes(settings: TrainSettings, changes: Mapping[str, Any]) -> TrainSettings:
    """Settings with other values at dotted places."""
    for key, value in changes.items():
        place, _, name = key.rpartition(".")
        if place:
            name, value = place, replace(getattr(settings, place), **{name: value})
        settings = replace(settings, **{name: value})
    return settings


def fit(
    settings: TrainSettings,
    devices: int,
    limit: float,
    measure: Callable[[TrainSettings, Mapping[str, Any]], float],
) -> tuple[dict[str, Any], float]:
    """The changes with which ``measure(settings, changes)`` is at most ``limit``.

    ``savings`` are tried in turn, and those that save a hundredth are kept. Returns the
    changes kept and their measure, past the limit if all of them do not do.
    """
    kept: dict[str, Any] = {}
    least = measure(settings, kept)
    for change in savings(settings, devices):
        if least <= limit:
            break
        changes = kept | change
        try:
            size = measure(with_changes(settings, changes), changes)
        except InputError:  # a global batch that such a mesh does not divide
            continue
        if size < 0.99 * least:
            kept, least = changes, size
    return kept, least
