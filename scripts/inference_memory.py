"""``scripts.plan_memory`` without a stage: questions about one video."""

import math
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scripts import cli

if TYPE_CHECKING:
    from vica_jax.decode.memory import Job, JobMemory
    from vica_jax.models.config import VicaConfig

PARTS = {
    "weights": "weights",
    "pixels": "pixels",
    "bank": "visual tokens",
    "prefix": "prefix, keys and values",
    "caches": "caches of the questions",
    "logits": "logits, ids generated",
    "encode_work": "work of encode",
    "prefill_work": "work of prefill",
    "questions_work": "work of the questions",
    "decode_work": "work of a decode step",
}


def plan(
    name: str, cfg: "VicaConfig", job: "Job", *, hbm_gb: float, usable: float
) -> None:
    """Print what a job needs and a yes or no; ends the program where nothing fits."""
    from vica_jax.decode.memory import fit, measure_job
    from vica_jax.errors import InputError

    layout, (height, width) = cfg.layout, job.frame_hw
    hiera = f", {layout.num_hiera_frames(job.frames)} of them for Hiera"
    print(f"{name}: {layout.video_tokens(job.frames):,} visual tokens")
    print(f"{job.frames} frames of {width}x{height}{hiera if layout.has_hiera else ''}")
    print(
        f"{job.questions} question{'s' * (job.questions > 1)} at once (in a batch of "
        f"{job.rows}), at most {job.new_tokens:,} new tokens, {dtypes(job)}, "
        f"{devices(job)}"
    )

    def measure(job: "Job", changes: Mapping[str, Any]) -> float:
        print("compiling ...", file=sys.stderr)
        start = time.perf_counter()
        try:
            memory = measure_job(cfg, job)
        except InputError as error:
            if not changes:
                raise
            print(f"with {as_flags(cfg, job, changes)}: not possible: {error}")
            return math.inf
        print(f"compiled in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        peak = memory.peak / 1e9
        answer = "fits" if peak <= most else "does not fit"
        if changes:
            told = f"with {as_flags(cfg, job, changes)}:"
        else:
            print_parts(memory)
            told = f"  {'peak per device':<24}"
        print(f"{told} {peak:8.2f} GB, {answer} in {limit}")
        return peak

    most = hbm_gb * usable
    limit = f"{most:.1f} GB ({usable:.0%} of {hbm_gb:g})"
    changes, peak = fit(cfg, job, most, measure)
    if peak > most:
        cli.fail(
            f"no: {peak:.1f} of {limit} at the least; take --weights=int8, --kv_dtype="
            "int8 or larger devices"
        )
    if not changes:
        print("yes")
        return
    warning = " (fewer frames change the answers)" if "frames" in changes else ""
    flags = as_flags(cfg, replace(job, **changes), changes)
    print_parts(measure_job(cfg, replace(job, **changes)))
    print(f"no, but with {flags} yes{warning}")


def print_parts(memory: "JobMemory") -> None:
    for part, said in PARTS.items():
        print(f"  {said:<24} {getattr(memory, part) / 1e9:8.2f} GB")
    for phase, size in memory.phases.items():
        print(f"  {'all during ' + phase:<24} {size / 1e9:8.2f} GB")


def dtypes(job: "Job") -> str:
    told = [job.dtype]
    told += [f"{name} in int8" for name in ("weights", "kv") if getattr(job, name)]
    return ", ".join(told)


def devices(job: "Job") -> str:
    if job.devices == 1:
        return "1 device"
    return f"{job.devices} devices (--mesh=tensor:{job.devices})"


def as_flags(cfg: "VicaConfig", job: "Job", changes: Mapping[str, Any]) -> str:
    """Changes as this command's flags. Of fewer frames Hiera sees the same share."""
    told = [f"--{name}={value}" for name, value in changes.items()]
    layout = cfg.layout
    if "frames" in changes and layout.has_hiera:
        ratio = layout.num_hiera_frames(job.frames), layout.output_stage
        told.append(f"--token_ratio={ratio[0]},{ratio[1]},{layout.pool_stride}")
    return " ".join(told)
