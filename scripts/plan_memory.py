"""What a stage or an answer needs on each device, without weights or a GPU.

    python -m scripts.plan_memory --config=configs/vica2_stage3_spatial.py \\
        --devices=8 --hbm_gb=80 [--length=N] [--targets=N] [--model=NAME]

    python -m scripts.plan_memory --model=vica2_7b --hbm_gb=24 [--questions=18] \\
        [--frames=64] [--token_ratio=32,4,2] [--new_tokens=1024] [--devices=1] \\
        [--dtype=bfloat16] [--weights=int8] [--kv_dtype=int8]

With a config file: a step of training, for a batch of full videos at the longest
sequence the stage allows. Without one: questions about one video, asked together as
``Assistant.open`` and ``VideoSession.ask`` do; NAME is a published model or a
checkpoint. Bytes by part from compiled programs, and whether they fit. Where they do
not, smaller settings are tried in turn, and the first that fits is named. Exit status
1 when none does. Takes about a minute per program tried.
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
flags.DEFINE_integer("devices", None, "default 8 in training, else 1", 1)
flags.DEFINE_float("hbm_gb", 80, "memory of one device in GB (10^9 bytes)", 0)
flags.DEFINE_float("usable", 0.92, "share that the program can have", 0, 1)
flags.DEFINE_string("video", "1920x1080", "width x height of a frame, for Hiera")
flags.DEFINE_string(
    "model",
    "",
    "vica_7b, vica2_7b ..., or a checkpoint; default in training: that of init_from, "
    "else the stage's",
)
# Of training alone:
flags.DEFINE_integer("length", 0, "positions of a sequence; 0: the longest bucket", 0)
flags.DEFINE_integer("targets", 1024, "supervised positions of a sequence", 1)
# Of inference alone:
flags.DEFINE_integer("frames", 64, "frames of the video", 1)
flags.DEFINE_list("token_ratio", None, "N_hiera,S_stage,s_pool such as 32,4,2")
flags.DEFINE_integer("questions", 1, "questions asked at once", 1)
flags.DEFINE_integer("question_tokens", 128, "tokens of a question", 1)
flags.DEFINE_integer("new_tokens", 1024, "longest answer", 1)
flags.DEFINE_enum("dtype", "bfloat16", ["float32", "bfloat16"], "compute dtype")
flags.DEFINE_enum("weights", "", ["", "int8"], "the language model's, if not --dtype")
flags.DEFINE_enum("kv_dtype", "", ["", "int8"], "keys and values, if not --dtype")

TRAINING = ("length", "targets")
INFERENCE = (
    *("frames", "token_ratio", "questions", "question_tokens", "new_tokens"),
    *("dtype", "weights", "kv_dtype"),
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
    training = CONFIG.value is not None
    if not training and not FLAGS.model:
        cli.fail(
            "neither --config=configs/NAME.py (a step of training) nor --model=NAME "
            "(questions about a video) is given"
        )
    for name in INFERENCE if training else TRAINING:
        if FLAGS[name].present:
            kind = "inference" if training else "training"
            cli.fail(f"--{name} is of {kind}, and --config is {given(training)}")
    devices = FLAGS.devices or (8 if training else 1)
    # Where one device does not do, more are tried.
    host_devices = devices if training else max(devices, 8)
    os.environ["XLA_FLAGS"] = " ".join(
        [
            os.environ.get("XLA_FLAGS", ""),
            f"--xla_force_host_platform_device_count={host_devices}",
        ]
    )
    import jax

    jax.config.update("jax_platforms", "cpu")
    if len(jax.devices()) != host_devices:
        cli.fail(f"--devices={devices}: XLA made {len(jax.devices())} host devices")
    if training:
        plan_training(devices)
    else:
        plan_inference(devices)


def given(training: bool) -> str:
    return "given" if training else "not given"


def plan_inference(devices: int) -> None:
    from scripts.inference_memory import plan
    from vica_jax.decode.memory import Job

    name, cfg = named_model(FLAGS.model)
    if ratio := cli.token_ratio(FLAGS.token_ratio):
        layout = cfg.layout.with_token_ratio(*ratio, num_frames=FLAGS.frames)
        cfg = cfg.with_layout(layout)
    width, height = frame_size(FLAGS.video)
    job = Job(
        frames=FLAGS.frames,
        frame_hw=(height, width),
        questions=FLAGS.questions,
        question_tokens=FLAGS.question_tokens,
        new_tokens=FLAGS.new_tokens,
        dtype=FLAGS.dtype,
        weights=FLAGS.weights,
        kv=FLAGS.kv_dtype,
        devices=devices,
    )
    plan(name, cfg, job, hbm_gb=FLAGS.hbm_gb, usable=FLAGS.usable)


def plan_training(devices: int) -> None:
    from vica_jax.config import build
    from vica_jax.errors import InputError
    from vica_jax.train.memory import fit, largest_shape, measure_step
    from vica_jax.train.settings import TrainSettings
    from vica_jax.train.stage import stage_config

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
    if not FLAGS.model and Path(settings.init_from).is_dir():
        return named_model(settings.init_from)
    published = "vica2_7b" if settings.name.startswith("vica2") else "vica_7b"
    return named_model(FLAGS.model or published)


def named_model(name: str) -> tuple[str, "VicaConfig"]:
    """Sizes of a published model, or of a checkpoint in either form."""
    from convert.vica import open_folder
    from vica_jax.checkpoint import is_checkpoint, read_manifest
    from vica_jax.models.config import VicaConfig
    from vica_jax.models.variants import VARIANTS

    if name in VARIANTS:
        return f"{name} (as published)", VARIANTS[name]
    folder = Path(name)
    if not folder.is_dir():
        cli.fail(f"--model={name}: take a checkpoint or one of {', '.join(VARIANTS)}")
    if is_checkpoint(folder):
        cfg = read_manifest(folder).model_config
    else:
        cfg = open_folder(folder, ("vica_qwen", "llava_qwen")).config
    if not isinstance(cfg, VicaConfig):
        cli.fail(f"--model={name}: a single tower, not a ViCA or ViCA2 checkpoint")
    assert isinstance(cfg, VicaConfig)
    return name, cfg


def frame_size(text: str) -> tuple[int, int]:
    """``"1920x1080"`` -> (1920, 1080)."""
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        cli.fail(f"--video={text}: write width x height, such as 1920x1080")
    return int(width), int(height)


if __name__ == "__main__":
    cli.run(main)
