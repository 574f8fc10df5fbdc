"""What a step needs per device: parts that are known exactly, and ways to need less."""

from dataclasses import replace

import jax
import micro

from vica_jax.data.settings import DataSettings
from vica_jax.errors import InputError
from vica_jax.train.memory import (
    fit,
    largest_shape,
    measure_step,
    savings,
    with_changes,
)
from vica_jax.train.settings import MeshSettings, OptimizerSettings, TrainSettings
from vica_jax.train.state import make_plan

SETTINGS = TrainSettings(
    name="micro",
    init_from="none",
    trainable=micro.TABLE,
    data=DataSettings(mixture="none", num_frames=2, shapes=micro.BUCKETS),
    optimizer=OptimizerSettings(rates=micro.RATES),
    global_batch_size=4,
    frame_chunk=2,
)


def shape(settings: TrainSettings = SETTINGS, **sizes):
    return largest_shape(settings, micro.CFG, frame_hw=(12, 16), **sizes)


def test_the_parts_of_a_step():
    plan = make_plan(micro.CFG, micro.TABLE, micro.RATES, dtype="bfloat16")
    trained, frozen = (
        sum(x.size for x in jax.tree.leaves(tree))
        for tree in (plan.trainable, plan.frozen)
    )
    memory = measure_step(SETTINGS, micro.CFG, shape(targets=32))
    assert memory.parameters == 4 * trained and memory.frozen == 2 * frozen
    assert memory.optimizer == 2 * 4 * trained + 8
    assert memory.compute_copy == 2 * trained
    assert memory.gradients == (2 + 4) * trained  # of a micro-batch, and their sum
    assert memory.logits == 2 * 4 * 32 * 96
    # 4 micro-batches of 1: tokens, index, positions, targets, lengths, frames of both.
    own = 4 * (2 * 128 + 2 * 32 + 1 + 2) + 2 * 28 * 28 * 3 + 16 * 16 * 3
    assert memory.batch == 4 * own
    # At least what two layers keep of their inputs.
    assert memory.activations > 2 * 128 * 32 * 2
    assert memory.total == sum(vars(memory).values())


def test_the_largest_shape():
    assert shape().length == 128 and shape(length=60).length == 64
    assert shape().frames == 2 and shape().hiera_frames == 1
    assert shape().frame_hw == (16, 16)
    cached = replace(SETTINGS, data=replace(SETTINGS.data, hiera_cache="cache"))
    assert shape(cached).frame_hw == (0, 0)
    assert shape(cached).hiera_channels == micro.CFG.hiera_out_width


LARGE = replace(
    SETTINGS,
    remat="none",
    per_device_batch_size=4,
    frame_chunk=8,
    mesh=MeshSettings(data=2, fsdp=-1, tensor=1),
)


def test_savings_from_cheap_to_dear():
    found = savings(LARGE, 8)
    assert found == [
        {"remat": "full"},
        {"per_device_batch_size": 2},
        {"per_device_batch_size": 1},
        {"mesh.data": 1, "mesh.fsdp": -1},
        {"frame_chunk": 2},
        {"optimizer.moment_dtype": "bfloat16"},
        *({"mesh.data": 1, "mesh.fsdp": -1, "mesh.tensor": n} for n in (2, 4, 8)),
    ]
    last = LARGE
    for change in found:
        last = with_changes(last, change)
    assert last.mesh.sizes(8) == {"data": 1, "fsdp": 1, "tensor": 8}
    assert last.optimizer.moment_dtype == "bfloat16" and last.remat == "full"
    for field in ("trainable", "data", "global_batch_size", "context_length", "lora"):
        assert getattr(last, field) == getattr(LARGE, field)
    assert not savings(replace(last, mesh=MeshSettings()), 1)


def test_fit_keeps_what_helps():
    asked = []

    def measure(settings, changes):
        asked.append(dict(changes))
        if settings.mesh.data == 1:
            raise InputError("the batch does not divide")
        size = 40 if settings.remat == "none" else 30
        size -= 5 * (settings.per_device_batch_size == 1)
        return size - 5 * (settings.optimizer.moment_dtype == "bfloat16")

    assert fit(LARGE, 8, 40, measure) == ({}, 40) and len(asked) == 1
    kept = {
        "remat": "full",
        "per_device_batch_size": 1,  # 2 saves nothing, and is not kept
        "optimizer.moment_dtype": "bfloat16",
    }
    assert fit(LARGE, 8, 20, measure) == (kept, 20)
    assert fit(LARGE, 8, 10, measure) == (kept, 20)
    assert asked[-1] == kept | {"mesh.data": 1, "mesh.fsdp": -1, "mesh.tensor": 8}
