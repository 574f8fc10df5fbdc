"""What all stages share: the papers' common settings and the variants of every stage.

Source: the reference's training scripts (github.com/nkkbr/ViCA) and the papers'
tables. ``vica_jax.train.settings`` says what each field means.
"""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict, config_dict

Config = Any  # a ConfigDict, whose fields have no static types
Variants = dict[str, Callable[[Config], None]]
SMOKE_MODEL = "tests/goldens/tiny-vica2/checkpoint"
SMOKE_DATA = "smoke-data"


def training(
    name: str, *, trainable: str, rates: dict[str, float], global_batch_size: int
) -> Config:
    """Settings of a stage: AdamW, cosine, one epoch, 64 frames, 32,768 tokens."""
    return ConfigDict(
        {
            "name": name,
            "init_from": "",
            "trainable": trainable,
            "global_batch_size": global_batch_size,
            "per_device_batch_size": 1,
            "epochs": 1,
            "max_steps": 0,
            "seed": 42,
            "context_length": 32768,
            "dtype": "bfloat16",
            "remat": "full",
            "frame_chunk": 8,
            "mesh": {"data": 1, "fsdp": -1, "tensor": 1},
            "optimizer": {
                "rates": rates,
                "schedule": "cosine",
                "warmup_ratio": 0.03,
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-8,
                "weight_decay": 0.0,
                "clip_norm": 1.0,
                "moment_dtype": "float32",
            },
            "data": {
                "mixture": "",
                "exclude": "",
                "image_folder": "",
                "video_folder": "",
                "num_frames": 64,
                "fps": config_dict.placeholder(float),
                "folder_fps": 2.0,
                "time_instruction": True,
                "images": "anyres",
                "group_by_length": True,
                "max_bad_share": 0.02,
                "num_workers": 8,
                "hiera_cache": "",
                "frame_cache": "",
                "frame_cache_gb": 50.0,
                "validation": "",
                "validation_share": 0.0,
                "shapes": {
                    "lengths": (1024, 2048, 4096, 8192, 16384, 24576, 32768),
                    "targets": (64, 256, 1024, 4096, 32768),
                    "views": (2, 5, 10, 20),
                    "images": (1, 2, 4, 8, 16),
                    "resampled": (8192, 16384),
                    "raw_side": 256,
                },
            },
            "checkpoint": {
                "every": 0.05,
                "every_steps": 0,
                "keep_last": 2,
                "keep_every": 0.05,
            },
            "log": {
                "line_every": 10,
                "tensorboard": True,
                "wandb_project": "",
                "peak_tflops": 0.0,
                "progress": True,
            },
            "lora": config_dict.placeholder(object),
            "validate_every": 0,
            "validation_batches": 0,
            "export_hf": False,
            "export_hf_every": 0,
        }
    )


def all_but_hiera() -> str:
    """SigLIP at its own rate; projectors, language model and newline at the base rate.

    To train Hiera too: ``hiera/.*=base`` in place of ``hiera/.*=frozen``.
    """
    return "hiera/.*=frozen, siglip/.*=siglip, .*=base"


def smoke(config: Config) -> None:
    """The whole way at toy size: a recorded tiny model, data that a script writes.

    python -m scripts.make_smoke_data --target=smoke-data
    """
    stage = config.name.removeprefix("vica2_").split("_")[0]
    config.init_from = SMOKE_MODEL
    config.dtype = "float32"
    config.context_length = 1024
    config.global_batch_size = 4
    config.per_device_batch_size = 2
    config.mesh.data, config.mesh.fsdp = 1, -1
    for rate in config.optimizer.rates:
        config.optimizer.rates[rate] *= 20 if stage == "stage1" else 100
    data = config.data
    data.mixture = f"{SMOKE_DATA}/{SMOKE_MIXTURES.get(stage, 'stage3.json')}"
    data.image_folder = data.video_folder = SMOKE_DATA
    data.num_frames = 8
    data.num_workers = 0
    data.max_bad_share = 0.2
    data.shapes.lengths = (512, 1024)
    data.shapes.targets = (256, 1024)
    data.shapes.views = (10,)
    data.shapes.images = (4,)
    data.shapes.resampled = (512,)
    data.shapes.raw_side = 160
    config.checkpoint.every = 0.25
    config.checkpoint.keep_every = 0.5


def small(config: Config) -> None:
    """The world's small model on generated rooms (docs/world.md).

    python -m scripts.make_world --rooms=1000 --seed=1 --out=world
    python -m scripts.pretrain_world --config=configs/world_pretrain.py \\
        --workdir=runs/world_pretrain
    """
    stage = config.name.removeprefix("vica2_").split("_")[0]
    before = {
        "stage1": "world_pretrain",
        "stage2": "vica2_stage1_small",
        "stage3": "vica2_stage2_small",
        "stage4": "vica2_stage3_small",
    }
    if stage not in before:
        raise ValueError(f"{config.name}: no variant 'small': the four stages have it")
    config.init_from = f"runs/{before[stage]}/export"
    config.dtype = "float32"
    config.context_length = 1536
    config.max_steps = SMALL_STEPS[stage]
    config.global_batch_size = config.per_device_batch_size = 8
    config.mesh.data, config.mesh.fsdp = 1, -1
    config.frame_chunk = 128
    config.remat = "none"
    if stage == "stage1":  # the paper's rate is for a fresh projector: this one is not
        config.optimizer.rates.base = 1e-4
    config.optimizer.b2 = 0.98
    data = config.data
    data.mixture = f"{SMALL_DATA}/{SMALL_MIXTURES[stage]}"
    if stage in ("stage1", "stage2"):  # the others see films alone
        data.image_folder = f"{SMALL_DATA}/images"
    data.video_folder = f"{SMALL_DATA}/videos"
    data.num_frames = 16
    data.time_instruction = False
    data.num_workers = 1
    data.shapes.lengths = (384, 512, 768, 1536)
    data.shapes.targets = (32, 128, 512, 1536)
    data.shapes.views = (5,)
    data.shapes.images = (1,)
    data.shapes.resampled = (512,)
    data.shapes.raw_side = 48
    config.checkpoint.every = 0.25
    config.checkpoint.keep_every = 0.0
    config.log.tensorboard = False


SMALL_DATA = "world"
SMALL_STEPS = {"stage1": 60, "stage2": 150, "stage3": 400, "stage4": 150}
SMALL_MIXTURES = {
    "stage1": "captions.json",
    "stage2": "stage2.yaml",
    "stage3": "mixture.yaml",
    "stage4": "thinking.yaml",
}
SMOKE_MIXTURES = {
    "stage1": "stage1.json",
    "stage2": "stage2.yaml",
    "stage3": "stage3.json",
    "stage4": "stage4.json",
}


def lora(config: Config) -> None:
    """Adapters on every product of the language model's layers, nothing else trains."""
    config.lora = ConfigDict(
        {
            "rank": 64,
            "alpha": 16.0,
            "dropout": 0.05,
            "targets": ("llm/layers/.*/(q|k|v|o|gate|up|down)_proj",),
        }
    )
    config.trainable = ".*=frozen"
    config.optimizer.rates = ConfigDict({"lora": 2e-4})


VARIANTS: Variants = {"lora": lora, "small": small, "smoke": smoke}


def apply_variants(config: Config, arg: str | None, own: Variants) -> Config:
    """The config changed by each variant that ``arg`` names."""
    variants = {**own, **VARIANTS}
    for name in filter(None, (arg or "").split(",")):
        if name not in variants:
            raise ValueError(
                f"{config.name}: no variant {name!r}: take {', '.join(variants)}"
            )
        variants[name](config)
    return config
