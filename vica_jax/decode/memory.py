"""What questions about a video need on each device, without weights or a GPU.

Arrays are counted in their dtypes. Temporary memory is that of the float32 programs as
XLA compiles them for the CPU, whatever the dtype: in bfloat16 the same arrays exist and
none is larger, whereas the CPU's own bfloat16 programs also hold float32 copies of the
weights they multiply, which no backend with bfloat16 products makes. int8 is counted
and not compiled.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from vica_jax.data.example import bucket_length
from vica_jax.decode.exact import NUMBER_TOKENS
from vica_jax.decode.generate import Sampling
from vica_jax.decode.loop import cache_room, rooms
from vica_jax.decode.programs import (
    HEAD_TOKENS,
    ask_programs,
    open_programs,
    video_batch,
)
from vica_jax.decode.session import batch_bucket
from vica_jax.errors import InputError
from vica_jax.models.config import VicaConfig
from vica_jax.models.vica import Vica, abstract_vica
from vica_jax.sharding import local_bytes, local_shape, make_mesh, param_shardings

FEWEST_FRAMES = 8
SCALE_BYTES = 4  # of an int8 weight's output channel, or a token's key in one head
QUANTISED = frozenset(
    f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")
) | {"lm_head"}


@dataclass(frozen=True, kw_only=True)
class Job:
    """Questions about one video: ``frames`` of ``frame_hw`` (height, width) pixels.

    ``questions`` at once, of ``question_tokens`` each with what surrounds it, and
    ``new_tokens`` in an answer at most. ``weights`` int8 are the language model's
    kernels, ``kv`` int8 the keys and values of prefix and caches; otherwise both are
    in ``dtype``. Devices are a mesh of one axis, ``tensor:DEVICES``: over ``fsdp``
    every decode step would gather the weights.
    """

    frames: int = 64
    frame_hw: tuple[int, int] = (1080, 1920)
    questions: int = 1
    question_tokens: int = 128
    new_tokens: int = 1024
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    weights: Literal["", "int8"] = ""
    kv: Literal["", "int8"] = ""
    devices: int = 1

    @property
    def rows(self) -> int:
        return batch_bucket(self.questions)


@dataclass(frozen=True, kw_only=True)
class JobMemory:
    """Bytes on each device, by part; ``phases`` says which parts exist together.

    ``pixels`` are frames for both encoders, ``bank`` the visual tokens, ``prefix`` the
    keys and values of what all questions share, ``caches`` those of their own tokens
    and answers, ``logits`` theirs with the record of ids already generated. The last
    four are temporary memory of one program each.
    """

    weights: int
    pixels: int
    bank: int
    prefix: int
    caches: int
    logits: int
    encode_work: int
    prefill_work: int
    questions_work: int
    decode_work: int

    @property
    def phases(self) -> dict[str, int]:
        """Bytes while each program runs. Of the video only the prefix is kept."""
        asked = self.weights + self.prefix + self.caches + self.logits
        return {
            "encode": self.weights + self.pixels + self.bank + self.encode_work,
            "prefill": self.weights + self.bank + self.prefix + self.prefill_work,
            "questions": asked + self.questions_work,
            "decode": asked + self.decode_work,
        }

    @property
    def peak(self) -> int:
        return max(self.phases.values())


def measure_job(cfg: VicaConfig, job: Job) -> JobMemory:
    """``JobMemory`` of a model on the first devices of this process (host devices).

    Raises:
      InputError: the questions do not fit the context, the devices do not divide the
        kv heads, or this process has fewer.
    """
    layout, heads = cfg.layout, cfg.llm.num_kv_heads
    if heads % job.devices:
        ways = [n for n in range(1, heads + 1) if heads % n == 0]
        raise InputError(
            f"{job.devices} devices do not divide the model's {heads} kv heads: take "
            f"one of {', '.join(map(str, ways))}"
        )
    text = HEAD_TOKENS + job.question_tokens
    video_batch(layout, frames=job.frames, frame_hw=job.frame_hw, text_tokens=text)
    whole = layout.video_tokens(job.frames) + text
    (room,), _ = rooms([whole], job.new_tokens, layout.context_length)
    length = bucket_length(job.question_tokens)
    slots = length + cache_room(max(room, NUMBER_TOKENS))
    seen = (cfg, job.frames, job.frame_hw, job.devices)
    works, pixels, bank, prefix = _opened(*seen)
    asked, logits, cache = _asked(*seen, job.rows, length, slots)
    itemsize = np.dtype(job.dtype).itemsize
    return JobMemory(
        weights=weight_bytes(_parameters(cfg, job.devices), itemsize, job.weights),
        pixels=pixels,
        bank=local_bytes(bank) * itemsize // 4,
        prefix=kv_bytes(prefix.layers, itemsize, job.kv),
        caches=kv_bytes(cache, itemsize, job.kv),
        logits=logits,
        encode_work=works["encode"],
        prefill_work=works["prefill"],
        questions_work=asked["questions"],
        decode_work=max(asked["decode"], asked.get("decode again", 0)),
    )


def weight_bytes(params: Any, itemsize: int, quantised: str = "") -> int:
    """One device's share of parameters of ``itemsize`` bytes, or with int8 kernels.

    int8 kernels of the language model's layers and output matrix have one float32
    scale per output channel; embeddings, norms, biases and encoders stay.
    """
    total, kernels = 0, [[name, "kernel"] for name in QUANTISED]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [str(key.key) for key in path]
        shape = local_shape(leaf)
        size = math.prod(shape)
        if quantised and names[0] == "llm" and names[-2:] in kernels:
            summed = 2 if names[-2] == "o_proj" else 1  # axes of the input
            total += size + SCALE_BYTES * math.prod(shape[summed:])
            continue
        total += size * itemsize
    return total


def kv_bytes(layers: Any, itemsize: int, quantised: str = "") -> int:
    """One device's share of keys and values; int8 has a scale per token and head."""
    total = 0
    for leaf in jax.tree.leaves(layers):
        *outer, head_dim = local_shape(leaf)
        each = head_dim + SCALE_BYTES if quantised else head_dim * itemsize
        total += math.prod(outer) * each
    return total


def savings(cfg: VicaConfig, job: Job) -> list[dict[str, Any]]:
    """Changes that need less memory, in the order to try them.

    First what costs time, then bfloat16, then devices; fewer frames come last, because
    they alone change what the model sees.
    """
    found: list[dict[str, Any]] = []
    rows = job.rows
    while rows > 1:
        rows = rows // 2 if rows <= 8 else rows - 8
        found.append({"questions": rows})
    if job.dtype == "float32":
        found.append({"dtype": "bfloat16"})
    devices = 2 * job.devices
    while cfg.llm.num_kv_heads % devices == 0:
        found.append({"devices": devices})
        devices *= 2
    frames = job.frames // 2
    while frames >= FEWEST_FRAMES:
        found.append({"frames": frames})
        frames //= 2
    return found


def fit(
    cfg: VicaConfig,
    job: Job,
    limit: float,
    measure: Callable[[Job, Mapping[str, Any]], float],
) -> tuple[dict[str, Any], float]:
    """The changes with which ``measure(job, changes)`` is at most ``limit``.

    ``savings`` are tried in turn, and those that save a hundredth are kept; when they
    do, each is taken back as far as it goes. Returns the changes and their measure,
    past the limit if all of them do not do.
    """
    kept: dict[str, Any] = {}
    found: dict[frozenset, float] = {}

    def measured(changes: dict[str, Any]) -> float:
        key = frozenset(changes.items())
        if key not in found:
            found[key] = measure(replace(job, **changes), changes)
        return found[key]

    least = measured(kept)
    for change in savings(cfg, job):
        if least <= limit:
            break
        changes = kept | change
        size = measured(changes)
        if size < 0.99 * least:
            kept, least = changes, size
    for name in list(kept) if least <= limit else ():
        rest = {key: value for key, value in kept.items() if key != name}
        milder = [{}, *(change for change in savings(cfg, job) if name in change)]
        for change in milder:
            changes = rest | change
            if changes == kept:
                break
            if (size := measured(changes)) <= limit:
                kept, least = changes, size
                break
    return kept, least


# ---------------------------------------------------------------------- programs
@functools.lru_cache(maxsize=16)
def _opened(
    cfg: VicaConfig, frames: int, frame_hw: tuple[int, int], devices: int
) -> tuple[dict[str, int], int, Any, Any]:
    """Temporaries of encode and prefill, bytes of pixels; bank and prefix, float32."""
    batch = video_batch(
        cfg.layout, frames=frames, frame_hw=frame_hw, text_tokens=HEAD_TOKENS
    )
    works, params = {}, _parameters(cfg, devices)
    with _on_mesh(devices):
        bank, prefix = open_programs(Vica(cfg), params, batch, _work(works))
    return works, local_bytes(batch), bank, prefix


@functools.lru_cache(maxsize=64)
def _asked(
    cfg: VicaConfig,
    frames: int,
    frame_hw: tuple[int, int],
    devices: int,
    rows: int,
    length: int,
    slots: int,
) -> tuple[dict[str, int], int, Any]:
    """Temporaries of the questions' programs, bytes of logits; the caches, float32."""
    *_, prefix = _opened(cfg, frames, frame_hw, devices)
    vocab = cfg.llm.vocab_size
    any_choice = Sampling(eos_ids=(0,), pad_id=0, vocab_limit=vocab)
    works, params = {}, _parameters(cfg, devices)
    with _on_mesh(devices):
        sizes = {"rows": rows, "length": length, "slots": slots}
        cache = ask_programs(
            Vica(cfg), params, prefix, any_choice, _work(works), **sizes
        )
    return works, rows * vocab * (4 + 1), cache


def _work(found: dict[str, int]) -> Callable[[str, Any], Any]:
    def compile(name: str, lowered: Any) -> Any:
        compiled = lowered.compile()
        found[name] = compiled.memory_analysis().temp_size_in_bytes
        return compiled

    return compile


@functools.lru_cache(maxsize=16)
def _parameters(cfg: VicaConfig, devices: int) -> Any:
    """Every parameter in float32, on the mesh if there is one."""
    shapes, axes = abstract_vica(cfg)
    if devices == 1:
        return shapes
    shardings = param_shardings(shapes, axes, make_mesh({"tensor": devices}))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=s),
        shapes,
        shardings,
    )


def _on_mesh(devices: int) -> contextlib.AbstractContextManager[Any]:
    if devices == 1:
        return contextlib.nullcontext()
    return jax.set_mesh(make_mesh({"tensor": devices}))
