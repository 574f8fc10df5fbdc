"""A run on rooms: what it writes, and that an interrupted one is as an unbroken one."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from optax import contrib

from convert.load import load_assistant, to_hf
from tests.pretrain.small_rooms import CFG, SETTINGS
from vica_jax.checkpoint import iter_leaves, read_manifest
from vica_jax.data.tokenizer import load_tokenizer
from vica_jax.errors import InputError
from vica_jax.models.vica import abstract_vica
from vica_jax.pretrain import run as runs
from vica_jax.pretrain.optimizer import matrix_of
from vica_jax.train.partition import leaves


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    runs.run(SETTINGS, workdir, CFG)
    return workdir


@pytest.mark.slow
def test_an_interrupted_run_ends_as_an_unbroken_one(whole, tmp_path, monkeypatch):
    check = runs.check_finite

    def stop(step, values, checkpoints):
        check(step, values, checkpoints)
        if step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(runs, "check_finite", stop)
    one = replace(SETTINGS, num_workers=1)
    with pytest.raises(KeyboardInterrupt):
        runs.run(one, tmp_path, CFG)
    assert not (tmp_path / "export").exists()
    monkeypatch.undo()
    export = runs.run(one, tmp_path, CFG)
    again = dict(iter_leaves(export))
    for path, leaf in iter_leaves(whole / "export"):
        np.testing.assert_array_equal(leaf, again.pop(path), err_msg=path)
    assert not again
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    assert [s["step"] for s in steps if "loss" in s] == [1, 2, 3, 4, 5]
    assert [s["rooms"] for s in steps if "loss" in s] == [2, 4, 5, 6, 7]


@pytest.mark.slow
def test_the_export_is_a_model_that_answers(whole, tmp_path):
    manifest = read_manifest(whole / "export")
    assert manifest.provenance["step"] == SETTINGS.steps
    to_hf(whole / "export", tmp_path / "hf", dtype="bfloat16")
    assistant = load_assistant(tmp_path / "hf", dtype="float32")
    frames = np.zeros((4, 36, 48, 3), np.uint8)
    answer = assistant.answer(frames, "How many chairs are in this room?", num_frames=4)
    assert answer.tokens["siglip"] and answer.tokens["hiera"]


@pytest.mark.slow
def test_a_finished_run_is_left_alone_and_another_is_refused(whole):
    written = (whole / "export" / "manifest.json").stat().st_mtime_ns
    assert runs.run(SETTINGS, whole, CFG) == whole / "export"
    assert (whole / "export" / "manifest.json").stat().st_mtime_ns == written
    with pytest.raises(InputError, match="began with room_seed = 5, now it is 6"):
        runs.run(replace(SETTINGS, room_seed=6), whole, CFG)


def test_a_wrong_variant_is_named(tmp_path):
    with pytest.raises(InputError, match="variant: 'wordl' is none of"):
        runs.run(replace(SETTINGS, variant="wordl"), tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"groups": ()}, "groups: give"),
        ({"groups": ((3, 3, 60), (2, 2, 40))}, "groups: give"),
        ({"groups": ((-1, -1, 28),)}, "groups: give"),
        ({"groups": ((2, 3, 28),)}, "groups: give"),
        ({"steps": 2}, "steps: 2, and films_from 2"),
        ({"film_wh": (0, 0)}, "film_wh: films take even sides"),
        ({"film_wh": (193, 144)}, "film_wh: films take even sides"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_settings_that_train_nothing_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        replace(SETTINGS, **changes)


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("objective", {"fact_layer": 3}, "fact_layer: 3, and the .* has 2 layers"),
        ("tokenizer", {"vocab_size": 641}, "641, and the model has .* for 640"),
        ("tokenizer", {"vocab_size": 300}, "vocab_size: 300: '.*' is . tokens"),
    ],
)
def test_what_does_not_fit_the_model_is_said_at_once(part, changes, said, tmp_path):
    settings = replace(SETTINGS, **{part: replace(getattr(SETTINGS, part), **changes)})
    with pytest.raises(InputError, match=said):
        runs.run(settings, tmp_path, CFG)


def test_a_tokenizer_of_other_settings_is_made_again(tmp_path):
    folder = tmp_path / "tokenizer"
    for size in (600, 620):
        made = replace(SETTINGS.tokenizer, vocab_size=size)
        runs.make_tokenizer(replace(SETTINGS, tokenizer=made), folder)
        assert len(load_tokenizer(folder)) == size


def test_rooms_are_counted_over_both_phases():
    assert [SETTINGS.rooms_before(step) for step in range(5)] == [0, 2, 4, 5, 6]


def test_phases_follow_one_another():
    four = replace(SETTINGS, films_from=1, joint_from=2, captions_from=3)
    phases = ["objects", "films", "joint", "captions", "captions"]
    assert [four.phase_of(step) for step in range(5)] == phases
    two = [SETTINGS.phase_of(step) for step in range(5)]
    assert two == ["objects"] * 2 + ["captions"] * 3


def test_muon_takes_every_product_of_the_towers_as_a_matrix():
    shapes = {path: leaf.shape for path, leaf in leaves(abstract_vica(CFG)[0])}
    muon = {p: matrix_of(p, len(shape)) for p, shape in shapes.items()}
    kernels = {p for p in shapes if p.endswith("kernel") and "patch_embed" not in p}
    assert {p for p, dims in muon.items() if dims is not None} == kernels
    for path in kernels:
        dims = muon[path]
        assert isinstance(dims, contrib.MuonDimensionNumbers)
        sizes = [
            int(np.prod([shapes[path][i] for i in jax.tree.leaves(axes)]))
            for axes in (dims.reduction_axis, dims.output_axis)
        ]
        assert np.prod(sizes) == np.prod(shapes[path])
        if "llm" in path and "o_proj" in path:
            assert sizes[1] == CFG.llm.width
        if "llm" in path and "q_proj" in path:
            assert sizes[0] == CFG.llm.width
    assert matrix_of("heads/places/kernel", 2) is None
