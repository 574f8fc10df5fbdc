"""A stage before it runs: what the FLOPs of its examples are taken to be."""

from dataclasses import replace

import micro
import pytest

from vica_jax.data.settings import DataSettings
from vica_jax.train.flops import sample_flops
from vica_jax.train.lora import LoraConfig
from vica_jax.train.settings import OptimizerSettings, TrainSettings
from vica_jax.train.stage import make_flops, make_stage

FULL = TrainSettings(
    name="micro",
    init_from="none",
    trainable=micro.TABLE,
    data=DataSettings(mixture="none", num_frames=2, shapes=micro.BUCKETS),
    optimizer=OptimizerSettings(rates=micro.RATES),
    global_batch_size=2,
)
ADAPTED = replace(
    FULL,
    trainable=".*=frozen",
    optimizer=OptimizerSettings(rates={"lora": 1e-3}),
    lora=LoraConfig(rank=2, alpha=4.0, targets=("llm/layers/.*/q_proj",)),
)
CACHED = replace(FULL, data=replace(FULL.data, hiera_cache="cache"))
ALL_BUT_HIERA = {"siglip", "siglip_projector", "hiera_projector", "newline", "llm"}


@pytest.mark.parametrize(
    ("settings", "counted"),
    [
        (FULL, {"trainable": ALL_BUT_HIERA}),
        (ADAPTED, {"trainable": set(), "adapted": {"llm"}}),
        (CACHED, {"trainable": ALL_BUT_HIERA, "cached_hiera": True}),
    ],
    ids=["full", "adapted", "cached"],
)
def test_flops_count_what_trains_and_what_runs(settings, counted):
    examples = micro.examples(4)  # three videos and a text
    found = make_flops(make_stage(settings, micro.CFG))(examples)
    expected = 0.0
    for example in examples:
        frames = 2 if example.media else 0
        expected += sample_flops(
            micro.CFG,
            length=example.length(micro.CFG.layout),
            frames=frames,
            hiera_frames=frames // 2,
            targets=sum(map(sum, example.supervised)),
            **counted,
        )
    assert found == pytest.approx(expected, rel=1e-12)
