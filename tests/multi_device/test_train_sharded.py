"""Training steps on 8 devices: one device's numbers, every device its own share."""

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import micro
import numpy as np
import pytest

from vica_jax.checkpoint import CheckpointWriter
from vica_jax.data.example import collate_training
from vica_jax.data.shapes import BatchShape
from vica_jax.models.vica import Vica, abstract_vica
from vica_jax.sharding import make_mesh
from vica_jax.train.feed import place
from vica_jax.train.optimizer import make_optimizer, make_schedule
from vica_jax.train.partition import leaves
from vica_jax.train.settings import OptimizerSettings
from vica_jax.train.state import (
    TrainState,
    abstract_state,
    init_state,
    load_leaves,
    make_plan,
    shardings_of,
)
from vica_jax.train.step import make_train_step

DEPTH = 5  # no other size of this model: it marks whole stacks in a program's text
CFG = replace(
    micro.CFG,
    siglip=replace(micro.SIGLIP, depth=DEPTH),
    llm=replace(micro.LLM, depth=DEPTH),
)
MODEL = Vica(CFG, jnp.float32, scan=True, frame_chunk=2)
ROWS = micro.examples(16)
OPTIMIZER = OptimizerSettings(rates=micro.RATES, schedule="constant")
PLAN = make_plan(CFG, micro.TABLE, micro.RATES, dtype=jnp.float32)
STEPS = 3
LARGE = 1024  # bytes, of a leaf that must not be whole anywhere
# Half the time to compile; what is partitioned, and how, stays the same.
QUICK = {"xla_backend_optimization_level": 0}

# Mesh axes data, fsdp, tensor, and the micro-batches of a step.
SPLITS = {
    "1,1,1": ((1, 1, 1), 1),
    "8,1,1": ((8, 1, 1), 1),
    "1,8,1": ((1, 8, 1), 1),
    "2,2,2": ((2, 2, 2), 2),
}
split = pytest.mark.parametrize(
    "name",
    [
        "2,2,2",
        pytest.param("8,1,1", marks=pytest.mark.slow),
        pytest.param("1,8,1", marks=pytest.mark.slow),
    ],
)
# What is added to all keys alike shifts a query's scores alike, which softmax does not
# see: these gradients are rounding alone. (In the language model positions are turned
# into keys after the bias, so there they are real.)
NOISE = "siglip/layers/block/attn/k_proj/bias"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What the steps of a split gave, where it lay, and the program's texts."""

    metrics: list[dict[str, float]]
    gradients: Mapping[str, np.ndarray]  # of the first step, clipped
    params: Mapping[str, np.ndarray]
    placed: Mapping[str, tuple[int, list[int]]]
    lowered: str
    compiled: str


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A native checkpoint of freshly drawn weights."""
    target = tmp_path_factory.mktemp("sharded") / "base"
    rng = np.random.default_rng(1)
    with CheckpointWriter(target) as new:
        for path, leaf in leaves(abstract_vica(CFG)[0]):
            drawn = rng.normal(path.endswith("scale"), 0.1, leaf.shape)
            new.write(path, drawn.astype(np.float32))
        new.finish(family="component", config=None)
    return target


@functools.cache
def train(base: Path, name: str) -> Trained:
    """Three steps on a mesh, from a checkpoint that is read straight onto it."""
    sizes, micro_batches = SPLITS[name]
    mesh = make_mesh(dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))
    schedule = make_schedule(OPTIMIZER, STEPS)
    optimizer = make_optimizer(OPTIMIZER, PLAN.groups, schedule)
    step: Any = make_train_step(
        MODEL,
        optimizer,
        schedule,
        clip_norm=OPTIMIZER.clip_norm,
        rates=micro.RATES,
        shardings=shardings_of(abstract_state(PLAN, optimizer, mesh)),
    )
    shape = BatchShape.of(ROWS, CFG.layout, micro.BUCKETS)
    rows = collate_training(ROWS, CFG.layout, shape)
    gradients, metrics = {}, []
    with jax.set_mesh(mesh):
        state = init_state(base, PLAN, optimizer, mesh, seed=0)
        frozen = load_leaves(base, PLAN, PLAN.frozen, mesh)
        before = placement(state, frozen)
        batch = place(rows, mesh, micro_batches, len(ROWS) // micro_batches)
        lowered = step.lower(state, frozen, batch)
        program = lowered.compile(compiler_options=QUICK)
        for number in range(STEPS):
            state, values = program(state, frozen, batch)
            metrics.append({key: float(value) for key, value in values.items()})
            if number == 0:  # the first moment has seen one gradient
                mu = dict(leaves(state.opt_state[0].mu))
                share = np.float32(1 - OPTIMIZER.b1)
                gradients = {path: np.asarray(x) / share for path, x in mu.items()}
    # Out of a step as they went in.
    assert placement(state, frozen) == before
    return Trained(
        metrics=metrics,
        gradients=gradients,
        params={path: np.asarray(leaf) for path, leaf in leaves(state.params)},
        placed=before,
        lowered=lowered.as_text(),
        compiled=program.as_text(),
    )


def placement(state: TrainState, frozen: Any) -> dict[str, tuple[int, list[int]]]:
    """Bytes of every leaf, and of its part on each device."""
    adam = state.opt_state[0]
    trees = {"params": state.params, "mu": adam.mu, "nu": adam.nu, "frozen": frozen}
    found = {}
    for kind, tree in trees.items():
        for path, leaf in leaves(tree):
            assert {shard.device for shard in leaf.addressable_shards} == {
                *leaf.sharding.mesh.devices.flat
            }
            parts = [shard.data.nbytes for shard in leaf.addressable_shards]
            found[f"{kind}/{path}"] = leaf.nbytes, parts
    return found


@split
def test_losses_and_gradients_equal_one_device(base, name):
    found, expected = train(base, name), train(base, "1,1,1")
    for values, wanted in zip(found.metrics, expected.metrics, strict=True):
        assert values["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
        assert values["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=1e-5)
        assert values["target_tokens"] == wanted["target_tokens"]
    largest = max(np.abs(g).max() for g in expected.gradients.values())
    for path, wanted in expected.gradients.items():
        limit = 1e-5 * np.abs(wanted).max()
        if path == NOISE:
            assert np.abs(wanted).max() < 1e-7 * largest
            limit = 1e-7 * largest
        difference = np.abs(found.gradients[path] - wanted).max()
        assert difference <= limit, path


@split
def test_parameters_after_three_steps(base, name):
    """To a hundredth of a step, and what a gradient's rounding makes of Adam's step.

    Adam divides a gradient by its own size: an error of it by the rounding of its
    leaf's sums, `eps * max|g|`, moves a parameter by `eps * max|g| / |g|` steps. That
    tells where a leaf's elements differ by many orders: a key's bias at the lowest
    rotary frequencies is nearly the same for all keys, which softmax does not see.
    """
    found, expected = train(base, name), train(base, "1,1,1")
    for path, wanted in expected.params.items():
        if path == NOISE:  # Adam makes steps of the whole rate out of rounding
            continue
        gradient = np.abs(expected.gradients[path])
        rounding = np.finfo(np.float32).eps * gradient.max()
        # A step at most, and none where nothing was summed.
        ones = (gradient > 0).astype(np.float32)
        of_rounding = np.divide(rounding, gradient, where=gradient > rounding, out=ones)
        rate = micro.RATES[PLAN.groups[path]]
        off = np.abs(found.params[path] - wanted)
        assert (off <= (0.01 + STEPS * of_rounding) * rate).all(), path


@split
def test_state_is_split_over_the_devices(base, name):
    _, fsdp, tensor = SPLITS[name][0]
    placed = train(base, name).placed
    for path, (whole, parts) in placed.items():
        assert len(parts) == 8
        if whole < LARGE:
            continue
        # A patch's kernel has no axis but its width that could be split.
        ways = fsdp if path.endswith("patch_embed/kernel") else fsdp * tensor
        assert parts == [whole // ways] * 8, path
    for kind in ("params", "mu", "nu", "frozen"):
        own = [value for path, value in placed.items() if path.startswith(kind)]
        total = sum(whole for whole, _ in own)
        for shares in zip(*(parts for _, parts in own), strict=True):
            # Norms, biases and what does not divide are whole on every device.
            if fsdp * tensor == 1:
                assert sum(shares) == total
            else:
                assert sum(shares) < (1 / (fsdp * tensor) + 0.13) * total


@split
def test_constraints_stand_in_the_lowered_text(base, name):
    text = train(base, name).lowered
    constraints = re.findall(r"sharding_constraint .*", text)
    gradients = len(PLAN.groups)
    assert len(constraints) > gradients
    axes = dict(zip(("data", "fsdp", "tensor"), SPLITS[name][0], strict=True))
    for axis, size in axes.items():
        assert any(f'"{axis}"' in line for line in constraints) == (size > 1)


@split
def test_layers_are_gathered_one_by_one_and_pixels_never(base, name):
    text = train(base, name).compiled
    moved = collectives(text, "all-gather", "all-to-all", "collective-permute")
    assert not [collective for collective in moved if collective.dtype == "u8"]
    gathers = [*collectives(text, "all-gather")]
    assert bool(gathers) == (name != "8,1,1")  # replicas have all they need
    of_layers = [gather for gather in gathers if "/layers/" in gather.source]
    assert bool(of_layers) == (name != "8,1,1")
    for gather in of_layers:
        assert gather.in_loop and DEPTH not in gather.shape, gather


@pytest.mark.parametrize(  # not 8,1,1: replicas hold every stack
    "name", ["2,2,2", pytest.param("1,8,1", marks=pytest.mark.slow)]
)
def test_no_stack_is_whole_on_a_device(base, name):
    """Weights, gradients and moments alike, whether gathered or summed or in a loop."""
    sizes, _ = SPLITS[name]
    mesh = make_mesh(dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))
    shardings = dict(leaves(PLAN.shardings(PLAN.trainable, mesh)))
    local, gathered = set(), set()
    for path, leaf in leaves(PLAN.trainable):
        sharding = shardings[path]
        local.add(sharding.shard_shape(leaf.shape))
        if "/block/" not in path or leaf.size * 4 < LARGE:
            continue
        of_tensor = [
            axes if "tensor" in (axes or ()) else None for axes in sharding.spec
        ]
        spec = jax.sharding.PartitionSpec(*of_tensor)
        over_tensor = jax.sharding.NamedSharding(mesh, spec)
        gathered |= {leaf.shape, over_tensor.shard_shape(leaf.shape)}
    shapes, whole = (
        {
            tuple(map(int, sizes.split(",")))
            for sizes in re.findall(r"\bf32\[([\d,]+)\]", train(base, one).compiled)
        }
        for one in (name, "1,1,1")
    )
    assert len(gathered & whole) >= 9 and local & shapes
    assert not (gathered - local) & shapes


@dataclass(frozen=True)
class Collective:
    """One result of a collective operation in a compiled program."""

    dtype: str
    shape: tuple[int, ...]
    source: str  # the traced operation it serves
    in_loop: bool


def collectives(text: str, *names: str) -> Iterator[Collective]:
    """The collective operations of a program in HLO's text form."""
    members: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if found := re.match(r"(?:ENTRY )?%?([\w.-]+) .*\{$", line):
            lines = members.setdefault(found[1], [])
        lines.append(line)
    called = {
        name: set(re.findall(r"(?:body|to_apply|calls)=%?([\w.-]+)", "".join(lines)))
        for name, lines in members.items()
    }
    looped: set[str] = set()
    waiting = set(re.findall(r"body=%?([\w.-]+)", text))
    while waiting:
        name = waiting.pop()
        looped.add(name)
        waiting |= called.get(name, set()) - looped
    operation = re.compile(rf" = (.*?) (?:{'|'.join(names)})(?:-start)?\(")
    for name, lines in members.items():
        for line in lines:
            if (found := operation.search(line)) is None:
                continue
            source = re.search(r'op_name="([^"]*)"', line)
            for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", found[1]):
                shape = tuple(int(size) for size in sizes.split(",") if size)
                traced = source[1] if source else ""
                yield Collective(dtype, shape, traced, name in looped)
