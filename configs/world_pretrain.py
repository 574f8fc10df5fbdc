"""The world's small ViCA2 from nothing: every part learns on generated rooms.

    python -m scripts.pretrain_world --config=configs/world_pretrain.py \\
        --workdir=runs/world_pretrain

No data is needed: rooms are made while it runs. Stop it at any time; the same command
goes on. ``:smoke`` is twelve steps of it, at the same sizes. The four stages follow
(``configs/vica2_stage1_align.py:small`` and on).
"""

from ml_collections import ConfigDict

from configs.common import Config


def get_config(arg: str | None = None) -> Config:
    config = ConfigDict(
        {
            "name": "world_pretrain",
            "variant": "world",
            "room_seed": 1,
            "seed": 0,
            "steps": 3800,
            "films_from": 1200,
            "joint_from": 2000,
            "captions_from": 3200,
            "captions": 1,
            "records": 2,
            "captions_rate": 0.3,
            "batch_size": 3,
            "objects_batch_size": 4,
            "film_wh": (192, 144),
            "groups": ((12, 7, 28), (20, 9, 60)),
            "num_workers": 1,
            "tokenizer": {"vocab_size": 2048, "rooms": 600, "seed": 1000},
            "objective": {
                "place_layer": 2,
                "mention_layer": 4,
                "pair_layer": 5,
                "fact_layer": 6,
                "option_layer": 7,
                "cell_weight": 0.5,
                "place_weight": 0.5,
                "mention_weight": 0.5,
                "pair_weight": 1.0,
                "fact_weight": 1.0,
                "option_weight": 1.0,
                "answer_weight": 3.0,
                "caption_weight": 1.0,
                "record_weight": 1.0,
                "mark_weight": 0.3,
            },
            "optimizer": {
                "rate": 3e-3,
                "adam_rate": 1e-3,
                "warmup_ratio": 0.02,
                "clip_norm": 0.0,
            },
            "checkpoint": {
                "every": 0.02,
                "every_steps": 0,
                "keep_last": 2,
                "keep_every": 0.0,
            },
            "log": {
                "line_every": 50,
                "tensorboard": False,
                "wandb_project": "",
                "peak_tflops": 0.0,
                "progress": True,
            },
        }
    )
    if arg not in (None, "", "smoke"):
        raise ValueError(f"world_pretrain: no variant {arg!r}: take smoke")
    if arg:
        smoke(config)
    return config


def smoke(config: Config) -> None:
    config.steps = 12
    config.films_from, config.joint_from, config.captions_from = 4, 7, 10
    config.batch_size = config.objects_batch_size = 1
    config.tokenizer.rooms = 60
    config.checkpoint.every_steps = 4
