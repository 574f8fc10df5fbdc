"""Stage tables: which leaves train, at which rate, and every way to get one wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import (
    vica2_stage1_align,
    vica2_stage2_onevision,
    vica2_stage3_spatial,
    vica2_stage4_thinking,
    vica_finetune,
)
from vica_jax.models.variants import VARIANTS
from vica_jax.models.vica import abstract_vica
from vica_jax.train.partition import (
    PartitionError,
    assign,
    leaves,
    merge,
    parse_table,
    split,
    stacked_paths,
)

PATHS = ["hiera/a", "siglip/layers/0/k", "siglip/layers/1/k", "newline"]


def count(variant: str, config) -> dict[str | None, int]:
    shapes = dict(leaves(abstract_vica(VARIANTS[variant])[0]))
    totals: dict[str | None, int] = {}
    for path, group in assign(shapes, config.trainable, config.optimizer.rates).items():
        totals[group] = totals.get(group, 0) + shapes[path].size
    return totals


def test_stage_1_trains_only_the_hiera_projector():
    totals = count("vica2_7b", vica2_stage1_align.get_config())
    assert totals["base"] == 16_063_488


@pytest.mark.parametrize(
    "stage", [vica2_stage2_onevision, vica2_stage3_spatial, vica2_stage4_thinking]
)
def test_later_stages_train_all_but_hiera(stage):
    totals = count("vica2_7b", stage.get_config())
    assert totals[None] == 68_675_712
    assert totals["siglip"] == 397_747_744
    assert totals["base"] + totals["siglip"] == 8_046_412_320


def test_vica_trains_everything():
    totals = count("vica_7b", vica_finetune.get_config())
    assert None not in totals
    assert sum(totals.values()) == 8_046_412_320 - 16_063_488


def test_hiera_is_unfrozen_by_one_row():
    config = vica2_stage3_spatial.get_config()
    config.trainable = config.trainable.replace("hiera/.*=frozen", "hiera/.*=base")
    assert None not in count("vica2_7b", config)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("hiera/.*=frozen, .*=bass", "names no rate"),
        ("heira/.*=frozen, .*=base", "matches no parameter"),
        (".*=base, hiera/.*=frozen", "never reached"),
        ("siglip/.*=base", "no row matches hiera/a"),
        (".*=frozen", "every parameter is frozen"),
        ("siglip/.*", "cannot read the row"),
        ("(=base", "no regular expression"),
        (" , ", "no row"),
    ],
)
def test_a_wrong_table_is_one_clear_line(table: str, says: str):
    with pytest.raises(PartitionError, match=says) as error:
        assign(PATHS, table, ["base"])
    assert "\n" not in str(error.value)


def test_layers_of_a_stack_share_a_row():
    table = "siglip/layers/0/.*=frozen, .*=base"
    with pytest.raises(PartitionError, match="share a row"):
        stacked_paths(assign(PATHS, table, ["base"]))
    merged = stacked_paths(assign(PATHS, "siglip/.*=base, .*=frozen", ["base"]))
    assert merged["siglip/layers/block/k"] == "base"


def test_a_row_may_be_all_frozen_where_adapters_train():
    assert not any(assign(PATHS, ".*=frozen", [], some=False).values())


def test_rows_may_hold_equals_signs():
    assert parse_table("a(?=b)b=base") == [("a(?=b)b", "base")]


@given(st.sets(st.sampled_from(["a/b", "a/c", "d", "e/f/g", "e/f/h"])))
def test_split_and_merge_are_inverses(chosen: set[str]):
    tree = {"a": {"b": 1, "c": 2}, "d": 3, "e": {"f": {"g": 4, "h": 5}}}
    left, right = split(tree, chosen)
    assert {path for path, _ in leaves(left)} == chosen
    assert merge(left, right) == tree
