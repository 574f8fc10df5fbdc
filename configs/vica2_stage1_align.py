"""ViCA2, stage 1: align Hiera's projector; all else is frozen.

    python -m scripts.train --config=configs/vica2_stage1_align.py --workdir=DIR \\
        --config.init_from=vica2-init

16,063,488 parameters train. Data: LLaVA-CC3M-Pretrain-595K (docs/data.md).
``vica2-init`` is LLaVA-Video with a fresh Hiera projector
(``scripts.convert_checkpoint --hiera=...``).
``:smoke`` runs in about a minute on a CPU, ``:lora`` trains adapters instead.
"""

from configs.common import Config, apply_variants, training


def get_config(arg: str | None = None) -> Config:
    config = training(
        "vica2_stage1_align",
        trainable="hiera_projector/.*=base, .*=frozen",
        rates={"base": 1e-3},
        global_batch_size=64,
    )
    config.init_from = "vica2-init"
    config.per_device_batch_size = 4
    config.data.mixture = "data/LLaVA-CC3M-Pretrain-595K/chat.json"
    config.data.image_folder = "data/LLaVA-CC3M-Pretrain-595K/images"
    return apply_variants(config, arg, {})
