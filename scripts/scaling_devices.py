"""Bytes that devices exchange in one step, from programs compiled for fake devices.

Nothing is run and no weight exists: a training step, a prefill and a decode step of a
small model are compiled for as many host devices as this process has, and their
collectives counted (``scripts/collectives``). In float32, because a CPU's compiler
would widen bfloat16 before it is exchanged: halve the bytes for bfloat16. It also
writes a gradient's reduce-scatter as an all-reduce and a slice, which counts twice.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from scripts.collectives import collectives, moved_bytes
from vica_jax.data.settings import DataSettings, ShapeBuckets
from vica_jax.decode.generate import prefill
from vica_jax.models.config import (
    Qwen2Config,
    SiglipConfig,
    VicaConfig,
    make_layout,
)
from vica_jax.models.vica import Vica, abstract_vica, apply
from vica_jax.sharding import make_mesh, param_shardings
from vica_jax.train.memory import abstract_batch, largest_shape
from vica_jax.train.settings import MeshSettings, OptimizerSettings, TrainSettings
from vica_jax.train.stage import make_program, make_stage

LENGTH, TARGETS, FRAMES = 1024, 64, 8
# Partitioning is the same; LLVM takes half as long.
QUICK = {"xla_backend_optimization_level": 0}
SIGLIP = SiglipConfig(
    image_size=56, patch_size=14, width=64, depth=2, num_heads=8, mlp_dim=128
)
# Sixteen heads over eight: a tensor axis of up to eight divides both.
LLM = Qwen2Config(
    width=1024,
    depth=4,
    num_heads=16,
    num_kv_heads=8,
    head_dim=64,
    mlp_dim=2816,
    vocab_size=8192,
)
CFG = VicaConfig(
    siglip=SIGLIP,
    llm=LLM,
    layout=make_layout(SIGLIP, num_frames=FRAMES, context_length=LENGTH),
)
REDUCED = replace(
    CFG, llm=replace(LLM, width=128, depth=2, head_dim=16, mlp_dim=256, vocab_size=512)
)
PROGRAMS = (
    "train, fsdp",
    "train, fsdp and tensor",
    "prefill, tensor",
    "decode, tensor",
)


def measure(cfg: VicaConfig) -> Iterator[dict[str, Any]]:
    """One record per program, on all of this process's devices."""
    devices = len(jax.devices())
    ways = min(devices, 2)
    makers: dict[str, Callable[[], Any]] = {
        PROGRAMS[0]: lambda: train(cfg, devices, 1),
        PROGRAMS[1]: lambda: train(cfg, devices // ways, ways),
        PROGRAMS[2]: lambda: prompt(cfg, devices),
        PROGRAMS[3]: lambda: token(cfg, devices),
    }
    for program, make in makers.items():
        found = collectives(make().compile(compiler_options=QUICK).as_text())
        yield {
            "program": program,
            "devices": devices,
            "moved": moved_bytes(found),
            "collectives": sum(one.times for one in found),
            "loops_uncounted": sum(not one.counted for one in found),
            "expected": expected(cfg, program, devices),
        }


def expected(cfg: VicaConfig, program: str, devices: int) -> float | None:
    """Bytes that arithmetic asks for; None where there is no plain rule.

    FSDP with recomputation: all weights are gathered forward and again backward, and
    their gradients scattered, so three times their bytes; a tensor axis: two sums of
    the activations in each layer, and one of the embeddings.
    """
    share = (devices - 1) / devices
    if program == PROGRAMS[0]:
        shapes, _ = abstract_vica(cfg)
        return 3 * 4 * share * sum(x.size for x in jax.tree.leaves(shapes))
    tokens = {PROGRAMS[2]: LENGTH, PROGRAMS[3]: 1}.get(program)
    if tokens is None:
        return None
    sums = 2 * cfg.llm.depth + 1
    return 2 * share * sums * tokens * cfg.llm.width * 4


# ----------------------------------------------------------------------- the programs
def train(cfg: VicaConfig, fsdp: int, tensor: int) -> Any:
    """A step of a sample on each of ``fsdp`` shards, lowered; everything trains."""
    settings = TrainSettings(
        name="scaling",
        init_from="none",
        trainable=".*=base",
        data=DataSettings(
            mixture="none",
            num_frames=FRAMES,
            shapes=ShapeBuckets(lengths=(LENGTH,), targets=(TARGETS,)),
        ),
        optimizer=OptimizerSettings(rates={"base": 1e-5}),
        global_batch_size=fsdp,
        dtype="float32",
        mesh=MeshSettings(data=1, fsdp=fsdp, tensor=tensor),
    )
    stage = make_stage(settings, cfg)
    program = make_program(stage, total_steps=100)
    shape = largest_shape(settings, stage.cfg, length=LENGTH, targets=TARGETS)
    batch = abstract_batch(stage, shape)
    with jax.set_mesh(stage.mesh):
        return program.step.lower(program.state, {}, batch)


def prompt(cfg: VicaConfig, tensor: int) -> Any:
    """A prefill of ``LENGTH`` tokens whose visual rows are there, lowered."""
    mesh, params = _placed(cfg, tensor)
    rows = cfg.layout.bank(frames=FRAMES).total
    text: Any = {
        "tokens": jax.ShapeDtypeStruct((1, LENGTH), jnp.int32),
        "visual_index": jax.ShapeDtypeStruct((1, LENGTH), jnp.int32),
        "lengths": jax.ShapeDtypeStruct((1,), jnp.int32),
    }
    bank: Any = jax.ShapeDtypeStruct((1, rows, cfg.llm.width), jnp.float32)
    with jax.set_mesh(mesh):
        return prefill.lower(Vica(cfg), LENGTH, params, text, bank)


def token(cfg: VicaConfig, tensor: int) -> Any:
    """One decode step over a cache of ``LENGTH`` slots, lowered."""
    mesh, params = _placed(cfg, tensor)
    c = cfg.llm
    heads = NamedSharding(mesh, PartitionSpec(None, None, "tensor", None))
    slot = jax.ShapeDtypeStruct(
        (1, LENGTH, c.num_kv_heads, c.head_dim), jnp.float32, sharding=heads
    )
    number = jax.ShapeDtypeStruct((1,), jnp.int32)
    step = functools.partial(apply, Vica(cfg), method="decode_step")
    with jax.set_mesh(mesh):
        cache = [(slot, slot)] * c.depth
        return jax.jit(step).lower(params, number, number, number, cache)


def _placed(cfg: VicaConfig, tensor: int) -> tuple[Any, Any]:
    """A mesh, and the parameters' shapes with their shardings on it."""
    mesh = make_mesh({"tensor": tensor})
    shapes, axes = abstract_vica(cfg)
    params = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        shapes,
        param_shardings(shapes, axes, mesh),
    )
    return mesh, params
