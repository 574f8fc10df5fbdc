"""Strict building of dataclasses: what is taken, and what each refusal says."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vica_jax.config import build, plain
from vica_jax.models.config import ConfigError, VicaConfig
from vica_jax.models.variants import VARIANTS


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    name: Literal["adamw", "sgd"] = "adamw"

    def __post_init__(self):
        if self.learning_rate < 0:
            raise ConfigError(f"learning_rate must not be {self.learning_rate}")


@dataclass(frozen=True, kw_only=True)
class Training:
    optimizer: Optimizer
    steps: int
    folder: Path = Path("out")
    stages: tuple[Optimizer, ...] = ()
    seed: int | None = None
    resume: bool = False
    limit: int | str = "all"
    rates: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    extra: Any = None


FULL = {
    "optimizer": {"learning_rate": 1e-5},
    "steps": 10,
    "folder": "runs/a",
    "stages": [{"learning_rate": 1, "betas": [0.5, 0.6], "name": "sgd"}],
    "seed": 3,
    "resume": True,
    "limit": 7,
    "rates": {"llm": 1},
    "notes": ["a"],
    "extra": {"x": [1]},
}


@pytest.mark.parametrize("wrap", [dict, ConfigDict])
def test_every_kind_of_field(wrap):
    config = build(Training, wrap(FULL))
    assert config.optimizer == Optimizer(learning_rate=1e-5)
    assert config.folder == Path("runs/a")
    (stage,) = config.stages
    assert isinstance(stage.learning_rate, float) and stage.betas == (0.5, 0.6)
    assert (config.seed, config.resume, config.limit) == (3, True, 7)
    assert isinstance(config.rates["llm"], float) and config.notes == ["a"]


def test_config_dict_references_and_placeholders_are_resolved():
    values = ConfigDict({"steps": 4, "optimizer": {"learning_rate": 1.0}})
    values.seed = placeholder(int)
    values.limit = values.get_ref("steps") * 2
    config = build(Training, values)
    assert config.seed is None and config.limit == 8


def changed(**changes: Any) -> dict[str, Any]:
    return FULL | changes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            changed(step=1),
            "config: Training has no field 'step': did you mean 'steps'?",
        ),
        (changed(optimizer={}), "config.optimizer: field 'learning_rate' of Optimizer"),
        (
            changed(optimizer={"lr": 1}),
            "no field 'lr'; it has learning_rate, betas, name",
        ),
        (changed(steps=1.0), "config.steps: takes int, got float 1.0"),
        (changed(steps=True), "config.steps: takes int, got bool True"),
        (changed(resume=1), "config.resume: takes bool, got int 1"),
        (changed(steps="1"), "config.steps: takes int, got str '1'"),
        (changed(steps=None), "config.steps: takes int, got None"),
        (changed(limit=None), "config.limit: takes int | str, got None"),
        (changed(stages={}), "config.stages: takes a tuple, got dict {}"),
        (changed(stages=[3]), "config.stages[0]: takes a mapping of Optimizer's"),
        (
            changed(stages=[{"learning_rate": 1, "betas": [1]}]),
            "config.stages[0].betas: takes 2 values, got 1",
        ),
        (
            changed(stages=[{"learning_rate": 1, "name": "adam"}]),
            "config.stages[0].name: takes 'adamw' or 'sgd', got 'adam'",
        ),
        (changed(stages=[{"learning_rate": -1}]), "config.stages[0]: learning_rate"),
        (changed(rates={"llm": "1"}), "config.rates.llm: takes float, got str '1'"),
        (changed(rates=[]), "config.rates: takes a mapping, got list []"),
        ([], "config: takes a mapping of Training's fields, got list []"),
    ],
)
def test_refusals_are_one_line_that_names_the_place(values: Any, message: str):
    with pytest.raises(ConfigError) as error:
        build(Training, values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_complete_asks_for_defaults_too():
    values = plain(build(Training, FULL))
    assert build(Training, values, complete=True) == build(Training, FULL)
    del values["stages"][0]["betas"]
    assert build(Training, values)
    with pytest.raises(ConfigError, match=r"config\.stages\[0\]: field 'betas'"):
        build(Training, values, complete=True)


def test_plain_values_are_json():
    values = plain(build(Training, FULL))
    assert json.loads(json.dumps(values)) == values
    assert values["folder"] == str(Path("runs/a"))


def places(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of every field, nested ones too."""
    found = []
    for key, value in values.items():
        found.append(f"{prefix}{key}")
        if isinstance(value, dict):
            found += places(value, f"{prefix}{key}.")
    return found


@given(place=st.sampled_from(places(plain(VARIANTS["tiny"]))), data=st.data())
def test_no_field_of_a_model_may_be_lost_or_misspelt(place: str, data: st.DataObject):
    values = json.loads(json.dumps(plain(VARIANTS["tiny"])))
    *branches, last = place.split(".")
    node = values
    for branch in branches:
        node = node[branch]
    value = node.pop(last)
    if data.draw(st.booleans(), label="misspell"):
        node[f"{last}_"] = value
        message = f"has no field '{last}_': did you mean '{last}'"
    else:
        message = f"field '{last}'"
    with pytest.raises(ConfigError, match=message) as error:
        build(VicaConfig, values, where="model", complete=True)
    assert str(error.value).startswith(".".join(["model", *branches]) + ":")
