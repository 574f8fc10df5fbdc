"""ViCA2, stage 2: all but Hiera on a tenth of LLaVA-OneVision.

    python -m scripts.train --config=configs/vica2_stage2_onevision.py --workdir=DIR \\
        --config.init_from=STAGE1/export

Data: LLaVA-OneVision-Data, ``random:10%`` of each part: a YAML list (docs/data.md).
``:smoke`` runs in about a minute on a CPU, ``:lora`` trains adapters instead.
"""

from configs.common import Config, all_but_hiera, apply_variants, training


def get_config(arg: str | None = None) -> Config:
    config = training(
        "vica2_stage2_onevision",
        trainable=all_but_hiera(),
        rates={"base": 1e-5, "siglip": 2e-6},
        global_batch_size=8,
    )
    config.init_from = "runs/vica2_stage1_align/export"
    config.data.mixture = "data/LLaVA-OneVision-Data/mixture.yaml"
    config.data.image_folder = "data/LLaVA-OneVision-Data"
    return apply_variants(config, arg, {})
