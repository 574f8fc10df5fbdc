"""ViCA (SigLIP only): fine-tune LLaVA-Video-7B-Qwen2 on ViCA-322K, everything trains.

    python -m scripts.train --config=configs/vica_finetune.py --workdir=DIR \\
        --config.init_from=LLaVA-Video-7B-Qwen2

On the rate of SigLIP see vica2_stage3_spatial. ``:base_only`` leaves the complex
reasoning files out, ``:smoke`` runs in about a minute on a CPU, ``:lora`` trains
adapters instead.
"""

from configs.common import Config, apply_variants, training
from configs.vica2_stage3_spatial import base_only

SMOKE_MODEL = "tests/goldens/tiny-vica/checkpoint"


def get_config(arg: str | None = None) -> Config:
    config = training(
        "vica_finetune",
        trainable="siglip/.*=siglip, .*=base",
        rates={"base": 1e-5, "siglip": 2e-6},
        global_batch_size=32,
    )
    config.init_from = "lmms-lab/LLaVA-Video-7B-Qwen2"
    config.per_device_batch_size = 2
    config.data.mixture = "data/ViCA-322K/mixture.yaml"
    config.data.video_folder = "data/ViCA-322K/videos"
    config = apply_variants(config, arg, {"base_only": base_only})
    if "smoke" in (arg or "").split(","):
        config.init_from = SMOKE_MODEL
    return config
