"""A model and settings so small that training on rooms takes seconds."""

from dataclasses import replace

from tests import micro
from vica_jax.models.config import SiglipConfig, VicaConfig, make_layout
from vica_jax.pretrain.settings import (
    MuonSettings,
    ObjectiveSettings,
    PretrainSettings,
    TokenizerSettings,
)
from vica_jax.train.settings import (
    CheckpointSettings,
    LogSettings,
)

VOCAB = 640
SIGLIP = SiglipConfig(
    image_size=56, patch_size=14, width=16, depth=2, num_heads=2, mlp_dim=32
)
CFG = VicaConfig(
    siglip=SIGLIP,
    hiera=micro.HIERA,
    llm=replace(micro.LLM, vocab_size=VOCAB, depth=2),
    layout=make_layout(
        SIGLIP, micro.HIERA, output_stage=2, num_frames=4, context_length=512
    ),
)
SETTINGS = PretrainSettings(
    name="small_rooms",
    variant="world",
    room_seed=5,
    seed=0,
    steps=5,
    films_from=2,
    joint_from=2,  # two phases: each is a program to compile
    captions_from=2,
    captions=1,
    records=1,
    captions_rate=0.5,
    batch_size=1,
    objects_batch_size=2,
    film_wh=(48, 36),
    groups=((3, 2, 48), (2, 1, 96)),
    tokenizer=TokenizerSettings(vocab_size=VOCAB, rooms=12, seed=9),
    objective=ObjectiveSettings(
        place_layer=1, mention_layer=1, pair_layer=1, fact_layer=2, option_layer=2
    ),
    optimizer=MuonSettings(rate=3e-3, adam_rate=1e-3),
    num_workers=2,
    checkpoint=CheckpointSettings(every_steps=3),
    log=LogSettings(tensorboard=False, progress=False),
)
