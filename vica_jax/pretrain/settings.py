"""Settings of training on generated rooms; ``configs/world_pretrain.py`` fills them."""

from dataclasses import dataclass, field, fields
from typing import Literal

from vica_jax.train.settings import (
    CheckpointSettings,
    LogSettings,
    SettingsError,
    check_least,
)

Phase = Literal["objects", "films", "joint", "captions"]
"""What learns from what. ``objects``: the encoders from their own losses, and the
language model from rooms as lists of objects; ``films``: it goes on with these, and
learns to find in films what the lists say, without reaching back into the encoders;
``joint``: all from films and the questions about them; ``captions``: beside these
pictures with captions, what is told of films (dialogues, descriptions, thoughts), and
what the stages' trainer takes for labels in every turn."""


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """The tokenizer is made of the questions on ``rooms`` rooms of their own seed."""

    vocab_size: int
    rooms: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """Where in the language model the auxiliary heads read (after how many layers),
    and what each part of the loss weighs (``pretrain.loss``)."""

    place_layer: int
    mention_layer: int
    pair_layer: int
    fact_layer: int
    option_layer: int
    cell_weight: float = 1.0
    place_weight: float = 1.0
    mention_weight: float = 1.0
    pair_weight: float = 1.0
    fact_weight: float = 1.0
    option_weight: float = 1.0
    answer_weight: float = 1.0
    caption_weight: float = 1.0
    record_weight: float = 1.0
    mark_weight: float = 1.0

    def __post_init__(self):
        check_least(self, 1, *self.layers())
        for one in fields(self):
            if one.name.endswith("_weight"):
                check_least(self, 0.0, one.name)

    @staticmethod
    def layers() -> tuple[str, ...]:
        """Names of the settings that are layers."""
        names = ("place", "mention", "pair", "fact", "option")
        return tuple(f"{name}_layer" for name in names)


@dataclass(frozen=True, kw_only=True)
class MuonSettings:
    """Rates of matrices (Muon) and of all else (Adam, with ``b2``); warm-up, then a
    cosine down to 0."""

    rate: float
    adam_rate: float
    warmup_ratio: float = 0.03
    b2: float = 0.98
    weight_decay: float = 0.01  # of matrices
    clip_norm: float = 1.0

    def __post_init__(self):
        check_least(self, 0.0, "rate", "adam_rate", "weight_decay", "clip_norm")


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """One run on generated rooms.

    Until step ``films_from`` a room is a list of objects to the language model, with
    ``objects_batch_size`` rooms a step; then a film, with ``batch_size`` rooms; from
    step ``joint_from`` on all learn from all, from ``captions_from`` on also from
    ``captions`` pictures and ``records`` of each room (``Phase``; past ``steps``:
    never). Rates rise and fall until then, and once more, to ``captions_rate`` of their
    height, for these.
    ``room_seed`` decides the rooms, ``seed`` the initial weights.
    ``film_wh`` is the size of frames; ``groups`` are rows of questions per room:
    (how many, how many behind a film, tokens at most), shorter first.
    """

    name: str
    variant: str  # of vica_jax.VARIANTS
    room_seed: int
    seed: int
    steps: int
    films_from: int
    joint_from: int
    captions_from: int
    captions: int
    records: int
    captions_rate: float
    batch_size: int
    objects_batch_size: int
    film_wh: tuple[int, int]
    groups: tuple[tuple[int, int, int], ...]
    tokenizer: TokenizerSettings
    objective: ObjectiveSettings
    optimizer: MuonSettings
    num_workers: int = 1
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    log: LogSettings = field(default_factory=LogSettings)

    def __post_init__(self):
        check_least(self, 1, "steps", "batch_size", "objects_batch_size", "num_workers")
        check_least(self, 0, "films_from", "joint_from", "room_seed", "seed")
        check_least(self, 1, "captions_from", "captions", "records")
        check_least(self, 0.0, "captions_rate")
        if self.steps <= self.films_from:
            raise SettingsError(
                f"steps: {self.steps}, and films_from {self.films_from}: the language "
                "model would never see a film"
            )
        if min(self.film_wh) < 16 or any(side % 2 for side in self.film_wh):
            raise SettingsError(
                f"film_wh: films take even sides from 16 pixels, got {self.film_wh}"
            )
        lengths = [length for _, _, length in self.groups]
        least = min([1, *(number for group in self.groups for number in group)])
        more = any(behind > many for many, behind, _ in self.groups)
        if not lengths or lengths != sorted(lengths) or least < 1 or more:
            raise SettingsError(
                "groups: give (how many, how many of these behind a film, tokens at "
                f"most), from 1 and shorter first, got {self.groups}"
            )

    def phase_of(self, step: int) -> Phase:
        """The phase of the step that follows ``step`` finished ones."""
        if step < self.films_from:
            return "objects"
        if step < self.joint_from:
            return "films"
        return "joint" if step < self.captions_from else "captions"

    def rooms_before(self, step: int) -> int:
        """How many rooms the steps before ``step`` have used."""
        early = min(step, self.films_from)
        return early * self.objects_batch_size + (step - early) * self.batch_size
