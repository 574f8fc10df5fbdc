"""A training step of stage 3 on one device: as many layers as its memory holds.

Full width and a whole video; what is reduced is the depth of the language model and the
global batch (one sample, so that the optimiser's share of a step is the largest it can
be). From two depths follows what one layer costs, and from that, by arithmetic alone,
what 28 would.
"""

import functools
import math
import time
from dataclasses import dataclass, replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from configs.vica2_stage3_spatial import get_config
from scripts.gpu_timing import (
    REFERENCE_FLOPS,
    Options,
    Row,
    array_bytes,
    device_memory,
    random_params,
    rated,
    timed,
)
from vica_jax.config import build
from vica_jax.data.example import Example, collate_training, video_medium
from vica_jax.data.shapes import BatchShape
from vica_jax.models.variants import VARIANTS
from vica_jax.train.feed import place
from vica_jax.train.flops import peak_flops
from vica_jax.train.settings import TrainSettings
from vica_jax.train.stage import (
    Program,
    Stage,
    make_flops,
    make_program,
    make_stage,
    stage_config,
)
from vica_jax.train.state import TrainState, shardings_of

TEXT = (14, 136)  # tokens before and after the video
TARGETS = 64  # of them supervised: an answer
HEADROOM = 1.5e9  # bytes left alone: fragments, the kernels' own work
ATTEMPTS = 4


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A step at one depth, before anything is allocated."""

    stage: Stage
    program: Program
    step: Any
    batch: Any
    bytes: int  # arguments, results and temporaries
    seconds: float  # that compiling took


class Training:
    def __init__(self, options: Options):
        self.options = options
        self.cfg = VARIANTS["tiny" if options.reduced else "vica2_7b"]
        self.settings = stage3(options.reduced)
        cfg = stage_config(self.settings, self.cfg)
        self.frames = cfg.layout.num_frames
        rng = np.random.default_rng(0)
        size = (self.frames, *((60, 80) if options.reduced else (480, 640)), 3)
        medium = video_medium(rng.integers(0, 256, size, np.uint8), cfg.layout)
        ids = rng.integers(0, 500, sum(TEXT)).tolist()
        learned = [False] * (TEXT[1] - TARGETS) + [True] * TARGETS
        self.example = Example(
            chunks=(ids[: TEXT[0]], ids[TEXT[0] :]),
            media=[medium],
            supervised=([False] * TEXT[0], learned),
        )

    def train(self) -> list[Row]:
        """Two depths, and all layers by arithmetic."""
        limit = device_memory().get("bytes_limit")
        depth = self.options.train_layers or self._depth_that_fits(limit)
        deep = self._fitting(depth, limit)
        rows = [deep]
        if deep["layers"] > 1:
            rows.append(self._measured(deep["layers"] // 2))
            rows.append(self.whole(*rows))
        return rows

    def whole(self, deep: Row, shallow: Row) -> Row:
        """All layers of the language model: computed, never run."""
        layers = deep["layers"] - shallow["layers"]
        left = self.cfg.llm.depth - deep["layers"]
        seconds = deep["median_s"] + left * (
            (deep["median_s"] - shallow["median_s"]) / layers
        )
        flops = deep["flops"] + left * (deep["flops"] - shallow["flops"]) / layers
        return {
            "name": f"train, {self.cfg.llm.depth} layers: COMPUTED from these",
            **self._rates({"median_s": seconds}, flops),
            "computed": True,
            "layers": self.cfg.llm.depth,
        }

    def _rates(self, row: Row, flops: float) -> Row:
        row = rated(row, flops)
        row["tokens_per_s"] = self.example.length(self.cfg.layout) / row["median_s"]
        row["mfu_of_reference"] = row["flops_per_s"] / REFERENCE_FLOPS
        nominal = peak_flops(jax.devices()[0].device_kind)
        note = f"MFU {row['mfu_of_reference']:.1%} of {REFERENCE_FLOPS / 1e12:.0f}"
        if nominal is not None:
            row["nominal_flops"] = nominal
            row["mfu_of_nominal"] = row["flops_per_s"] / nominal
            note += f", {row['mfu_of_nominal']:.1%} of {nominal / 1e12:.1f} nominal"
        return row | {"note": note + " TFLOP/s"}

    # ------------------------------------------------------------------ memory
    def _depth_that_fits(self, limit: int | None) -> int:
        """An estimate from the sizes of state and activations; half the tiny model's
        depth where the device does not say how much memory it has."""
        if limit is None:
            return max(self.cfg.llm.depth // 2, 1)
        one, two = self._state_of_one_and_two
        c, length = self.cfg.llm, self._shape().length
        layer = two - one + 2 * length * c.width  # a layer's kept input
        work = 2 * 10 * length * c.mlp_dim  # one layer's products, in bfloat16
        depth = int((limit - HEADROOM - work - one) / layer) + 1
        return min(max(depth, 1), c.depth)

    @functools.cached_property
    def _state_of_one_and_two(self) -> tuple[int, int]:
        """Bytes of the state with one and with two layers."""
        one, two = (self._state_bytes(self._stage(depth)) for depth in (1, 2))
        return one, two

    @staticmethod
    def _state_bytes(stage: Stage) -> int:
        """Masters, moments, cast, gradients; frozen weights."""
        masters = array_bytes(stage.plan.trainable)
        moment = np.dtype(stage.settings.optimizer.moment_dtype).itemsize / 4
        cast_to = jnp.dtype(stage.settings.dtype).itemsize / 4
        share = 1 + 1 + moment + 2 * cast_to
        return int(masters * share) + array_bytes(stage.plan.frozen)

    def _fitting(self, depth: int, limit: int | None) -> Row:
        """The row of the deepest step from ``depth`` down that compiles and runs."""
        tried = []
        for attempt in range(ATTEMPTS):
            try:
                row = self._measured(depth, limit)
            except _TooLarge as error:
                tried.append(f"{depth} layers: {error}")
                depth = min(error.depth, depth - 1)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error) or attempt == ATTEMPTS - 1:
                    raise
                tried.append(f"{depth} layers: out of memory when run")
                depth = depth * 3 // 4
            else:
                return row | ({"tried": tried} if tried else {})
            if depth < 1:
                break
        raise MemoryError(f"no depth fits: {'; '.join(tried)}")

    # -------------------------------------------------------------------- a step
    def _stage(self, depth: int) -> Stage:
        llm = replace(self.cfg.llm, depth=depth)
        return make_stage(self.settings, replace(self.cfg, llm=llm))

    def _shape(self) -> BatchShape:
        layout = stage_config(self.settings, self.cfg).layout
        return BatchShape.of([self.example], layout, self.settings.data.shapes)

    def _compiled(self, depth: int) -> Compiled:
        stage = self._stage(depth)
        program = make_program(stage, total_steps=100)
        frozen = _placed(stage)
        host = collate_training([self.example], stage.cfg.layout, self._shape())
        with jax.set_mesh(stage.mesh):
            batch = place(host, stage.mesh, stage.accumulation, stage.micro_batch)
            start = time.perf_counter()
            step = program.step.lower(program.state, frozen, batch).compile()
            seconds = time.perf_counter() - start
        sizes = step.memory_analysis()
        total = 0
        if sizes is not None:
            total = (
                sizes.argument_size_in_bytes
                + sizes.output_size_in_bytes
                - sizes.alias_size_in_bytes
                + sizes.temp_size_in_bytes
            )
        return Compiled(
            stage=stage,
            program=program,
            step=step,
            batch=batch,
            bytes=int(total),
            seconds=seconds,
        )

    def _measured(self, depth: int, limit: int | None = None) -> Row:
        compiled = self._compiled(depth)
        stage = compiled.stage
        over = compiled.bytes + HEADROOM - (limit or math.inf)
        if over > 0:
            one, two = self._state_of_one_and_two
            layer = two - one
            raise _TooLarge(compiled.bytes, depth - math.ceil(over / layer))
        shardings = shardings_of(compiled.program.state)
        with jax.set_mesh(stage.mesh):
            frozen = random_params(
                stage.plan.frozen, shardings=shardings_of(_placed(stage))
            )
            params = random_params(stage.plan.trainable, shardings=shardings.params)
            init: Any = jax.jit(
                compiled.program.optimizer.init, out_shardings=shardings.opt_state
            )
            state = TrainState(
                step=jax.device_put(jnp.zeros((), jnp.int32), shardings.step),
                params=params,
                opt_state=init(params),
                rng=jax.device_put(
                    jax.random.key_data(jax.random.key(0)), shardings.rng
                ),
            )
            del params
            last: dict[str, float] = {}

            def run():
                nonlocal state
                state, metrics = compiled.step(state, frozen, compiled.batch)
                last["loss"] = metrics["loss"]
                return state.step, metrics

            row = timed(run, repeats=self.options.repeats)
            if self.options.profile:
                with jax.profiler.trace(f"{self.options.profile}/train-{depth}"):
                    jax.block_until_ready(run())
        loss = float(last["loss"])
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss of random weights is {loss}")
        flops = make_flops(stage)([self.example])
        row = self._rates(row, flops)
        return {
            "name": f"train, {depth} layers",
            **row,
            "compile_s": compiled.seconds,
            "layers": depth,
            "tokens": self.example.length(self.cfg.layout),
            "padded_to": self._shape().length,
            "global_batch": self.settings.global_batch_size,
            "program_bytes": compiled.bytes,
            "loss": loss,
        }


class _TooLarge(Exception):
    """A compiled step that does not fit, and the depth that may."""

    def __init__(self, size: int, depth: int):
        super().__init__(f"{size / 1e9:.1f} GB do not fit")
        self.depth = depth


def stage3(reduced: bool) -> TrainSettings:
    """The settings of ``configs/vica2_stage3_spatial.py``, for a sample at a time."""
    config = get_config("smoke" if reduced else None)
    config.init_from = config.data.mixture = "none"  # neither is read here
    config.global_batch_size = config.per_device_batch_size = 1
    return cast(TrainSettings, build(TrainSettings, config))


def _placed(stage: Stage) -> Any:
    """The frozen weights' shapes with their shardings."""
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        stage.plan.frozen,
        stage.plan.shardings(stage.plan.frozen, stage.mesh),
    )
