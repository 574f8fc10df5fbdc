"""ViCA2, stage 4: all but Hiera on ViCA-Thinking-2.68k.

    python -m scripts.train --config=configs/vica2_stage4_thinking.py --workdir=DIR \\
        --config.init_from=STAGE3/export

The reference publishes no script of this stage: rates and batch are stage 3's.
``:smoke`` runs in about a minute on a CPU, ``:lora`` trains adapters instead.
"""

from configs.common import Config, all_but_hiera, apply_variants, training


def get_config(arg: str | None = None) -> Config:
    config = training(
        "vica2_stage4_thinking",
        trainable=all_but_hiera(),
        rates={"base": 1e-5, "siglip": 2e-6},
        global_batch_size=8,
    )
    config.init_from = "runs/vica2_stage3_spatial/export"
    config.data.mixture = "data/ViCA-Thinking-2.68k/mixture.yaml"
    config.data.video_folder = "data/ViCA-322K/videos"
    return apply_variants(config, arg, {})
