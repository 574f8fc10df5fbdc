"""The world's small ViCA2 learns to describe: captions beside questions, in all parts.

    python -m scripts.train --config=configs/world_captions.py \\
        --workdir=runs/world_captions

After ``configs/world_pretrain.py``, which teaches no sentence, and before the four
stages: the first of these trains a projector alone, and takes a language model that can
caption. Data: ``scripts.make_world --rooms=1000 --seed=1 --out=world``.
"""

from configs.common import Config, small, training


def get_config() -> Config:
    config = training(
        "world_captions",
        trainable=".*=base",
        rates={"base": 5e-4},
        global_batch_size=8,
    )
    small(config)
    return config
