"""ViCA2, stage 3: all but Hiera on ViCA-322K.

    python -m scripts.train --config=configs/vica2_stage3_spatial.py --workdir=DIR \\
        --config.init_from=STAGE2/export

Data: ViCA-322K with the videos of ScanNet, ScanNet++ and ARKitScenes (docs/data.md).
SigLIP's rate of 2e-6 stands in the reference's scripts; with its DeepSpeed file the
published models were probably trained at 1e-5 throughout:
``--config.optimizer.rates.siglip=1e-5``. ``:base_only`` leaves the complex reasoning
files out, ``:smoke`` runs in about a minute on a CPU, ``:lora`` trains adapters.
"""

from configs.common import Config, all_but_hiera, apply_variants, training


def get_config(arg: str | None = None) -> Config:
    config = training(
        "vica2_stage3_spatial",
        trainable=all_but_hiera(),
        rates={"base": 1e-5, "siglip": 2e-6},
        global_batch_size=8,
    )
    config.init_from = "runs/vica2_stage2_onevision/export"
    config.data.mixture = "data/ViCA-322K/mixture.yaml"
    config.data.video_folder = "data/ViCA-322K/videos"
    return apply_variants(config, arg, {"base_only": base_only})


def base_only(config: Config) -> None:
    """Without the sources whose file name says that they are complex reasoning."""
    config.data.exclude = r".*complex.*"
