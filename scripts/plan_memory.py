"""What a stage needs on each device, from the compiled step, without weights or a GPU.

    python -m scripts.plan_memory --config=configs/vica2_stage3_spatial.py \\
        --devices=8 --hbm_gb=80 [--length=N] [--targets=N] [--model=NAME]

Parameters, gradients, optimiser state, activations and logits per device, for a batch
of full videos at the longest sequence the stage allows, and whether they fit. Where
they do not, smaller settings are tried in turn, and the first that fits is named. Exit
status 1 when none does. Takes about a minute per program tried.
"""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_flags

from scripts import cli

if TYPE_CHECKING:
    from vica_jax.models.config import VicaConfig
    from vica_jax.train.settings import TrainSettings

FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file("config", None, "configs/NAME.py[:variant]")
flags.DEFINE_integer("devices", 8, "devices of the mesh", lower_bound=1)
flags.DEFINE_float("hbm_gb", 80, "memory of one device in GB (10^9 bytes)", 0)
flags.DEFINE_float("usable", 0.92, "share that the program can have", 0, 1)
flags.DEFINE_integer("length", 0, "positions of a sequence; 0: the longest bucket", 0)
flags.DEFINE_integer("targets", 1024, "supervised positions of a sequence", 1)
flags.DEFINE_string("video", "1920x1080", "width x height of a frame, for Hiera")
flags.DEFINE_string(
    "model", "", "vica_7b, vica2_7b ...; default: that of init_from, else the stage's"
)

PARTS = {
    "parameters": "parameters, float32",
    "optimizer": "optimiser state",
    "frozen": "frozen weights",
    "compute_copy": "parameters, cast",
    "gradients": "gradients",
    "batch": "batch",
    "logits": "logits (one chunk)",
    "activations": "activations and work",
}


def main() -> None:
    devices = FLAGS.devices
    os.environ["XLA_FLAGS"] = " ".join(
        [
            os.environ.get("XLA_FLAGS", ""),
            f"--xla_force_host_platform_device_count={devices}",
        ]
    )
    import jax

    jax.config.update("jax_platforms", "cpu")
    from vica_jax.config import build
    from vica_jax.errors import InputError
    from vica_jax.train.memory import fit, largest_shape, measure_step
    from vica_jax.train.settings import TrainSettings
    from vica_jax.train.stage import stage_config

    if len(jax.devices()) != devices:
        cli.fail(f"--devices={devices}: XLA made {len(jax.devices())} host devices")
    config = CONFIG.value
    for place, key in ((config, "init_from"), (config.data, "mixture")):
        place[key] = place[key] or "none"  # neither is read here
    settings = build(TrainSettings, config)
    name, cfg = chosen_model(settings)
    cfg = stage_config(settings, cfg)
    width, height = frame_size(FLAGS.video)
    shape = largest_shape(
        settings,
        cfg,
        length=FLAGS.length,
        targets=FLAGS.targets,
        frame_hw=(height, width),
    )
    print(f"{settings.name} of {name} on {devices} devices")
    print(f"a sequence: {shape}")

    def measure(settings: TrainSettings, changes: Mapping[str, Any]) -> float:
        if changes:
            print(f"with {as_flags(changes)}:")
        print("compiling ...", file=sys.stderr)
        start = time.perf_counter()
        try:
            memory = measure_step(settings, cfg, shape)
        except InputError as error:
            if changes:
                print(f"  not possible: {error}")
            raise
        print(f"compiled in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        for part, said in PARTS.items():
            print(f"  {said:<22} {getattr(memory, part) / 1e9:8.2f} GB")
        total = memory.total / 1e9
        answer = "fits" if total <= usable else "does not fit"
        print(f"  {'total per device':<22} {total:8.2f} GB, {answer} in {limit}")
        return total

    usable = FLAGS.hbm_gb * FLAGS.usable
    limit = f"{usable:.1f} GB ({FLAGS.usable:.0%} of {FLAGS.hbm_gb:g})"
    changes, total = fit(settings, devices, usable, measure)
    if total > usable:
        cli.fail(
            f"no: {total:.1f} of {limit} at the least; take more devices, a smaller "
            "--config.context_length, or adapters (the variant :lora)"
        )
    print("yes" if not changes else f"no, but with {as_flags(changes)} yes")


def as_flags(changes: Mapping[str, Any]) -> str:
    return " ".join(f"--config.{key}={value}" for key, value in changes.items())


def chosen_model(settings: "TrainSettings") -> tuple[str, "VicaConfig"]:
    """What is to be trained: the checkpoint's sizes if it is there, else published."""
    from convert.vica import open_folder
    from vica_jax.checkpoint import is_checkpoint, read_manifest
    from vica_jax.models.config import VicaConfig
    from vica_jax.models.variants import VARIANTS

    folder = Path(settings.init_from)
    if not FLAGS.model and is_checkpoint(folder):
        return str(folder), read_manifest(folder).model_config
    if not FLAGS.model and folder.is_dir():
        cfg = open_folder(folder, ("vica_qwen", "llava_qwen")).config
        assert isinstance(cfg, VicaConfig)
        return str(folder), cfg
    published = "vica2_7b" if settings.name.startswith("vica2") else "vica_7b"
    name = FLAGS.model or published
    if name not in VARIANTS:
        cli.fail(f"--model={name}: take one of {', '.join(VARIANTS)}")
    return f"{name} (as published)", VARIANTS[name]


def frame_size(text: str) -> tuple[int, int]:
    """``"1920x1080"`` -> (1920, 1080)."""
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        cli.fail(f"--video={text}: write width x height, such as 1920x1080")
    return int(width), int(height)


if __name__ == "__main__":
    cli.run(main, required=("config",))
