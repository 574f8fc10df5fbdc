"""``scripts.train``: the stages in sequence, each from the export of the one before.

At smoke size and two steps each: a stage costs what its programs take to compile.
"""

import json
import os
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from command_line import Result, run
from PIL import Image

from configs import common, vica2_stage3_spatial
from convert.load import load_assistant
from vica_jax.checkpoint import iter_leaves, read_manifest
from vica_jax.config import build
from vica_jax.train.partition import leaves
from vica_jax.train.settings import TrainSettings

ROOT = Path(__file__).parents[2]
STAGES = {
    "vica2_stage1_align": "stage1.json",
    "vica2_stage2_onevision": "stage2.yaml",
    "vica2_stage3_spatial": "stage3.json",
    "vica2_stage4_thinking": "stage4-and-broken.json",
}
VARIANTS = ("", "smoke", "lora", "smoke,lora", "lora,smoke")


@dataclass(frozen=True)
class Run:
    """A run that has ended: where it began, its folder, what it said."""

    base: Path
    workdir: Path
    result: Result

    @property
    def metrics(self) -> list[dict]:
        """What metrics.jsonl says of the steps."""
        lines = (self.workdir / "metrics.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if "event" not in line]

    def changed(self) -> dict[str, bool]:
        """Whether the export's leaf has other bytes than the base's, by path."""
        before, after = weights(self.base), weights(self.workdir / "export")
        assert before.keys() == after.keys()
        return {path: before[path] != after[path] for path in before}


def weights(folder: Path) -> dict[str, tuple]:
    return {
        path: (leaf.dtype, leaf.shape, leaf.tobytes())
        for path, leaf in iter_leaves(folder)
    }


@pytest.fixture(scope="module", autouse=True)
def at_the_root():
    """The smoke variants name their model as seen from there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "smoke"
    assert run("make_smoke_data", target=folder).code == 0
    good = json.loads((folder / "stage4.json").read_text())[:7]
    broken = json.loads((folder / "broken.json").read_text())
    broken = [record for record in broken if record["id"] == "missing-video"]
    (folder / "stage4-and-broken.json").write_text(json.dumps(good + broken))
    return folder


@pytest.fixture(scope="module")
def train(data, tmp_path_factory):
    """``train(config, mixture, *flags)`` in a new workdir, which must succeed."""

    def call(config: str, mixture: str, *flags: str, base: Path | None = None) -> Run:
        workdir = tmp_path_factory.mktemp("runs") / "run"
        more = [f"--config.init_from={base}"] if base else []
        result = run(
            "train",
            f"--config=configs/{config}",
            f"--workdir={workdir}",
            f"--config.data.mixture={data / mixture}",
            f"--config.data.image_folder={data}",
            f"--config.data.video_folder={data}",
            *more,
            *flags,
        )
        assert result.code == 0, result.err
        return Run(base or workdir / "base", workdir, result)

    return call


@pytest.fixture(scope="module")
def chain(train) -> dict[str, Run]:
    """The four stages of ViCA2; the first from a checkpoint in HF form."""
    done: dict[str, Run] = {}
    base = None
    for name, mixture in STAGES.items():
        done[name] = train(
            f"{name}.py:smoke", mixture, "--config.max_steps=2", base=base
        )
        base = done[name].workdir / "export"
    return done


# -------------------------------------------------------------------- the four stages
@pytest.mark.parametrize("stage", STAGES)
def test_what_trains_changes_and_the_rest_is_the_same_to_the_bit(chain, stage):
    changed = chain[stage].changed()
    if stage == "vica2_stage1_align":
        trained = {path for path in changed if path.startswith("hiera_projector/")}
        assert len(trained) == 4
    else:
        # Nothing reads SigLIP's last norm: it has no gradient.
        still = ("hiera/", "siglip/post_norm/")
        trained = {path for path in changed if not path.startswith(still)}
    assert {path for path, other in changed.items() if other} == trained


@pytest.mark.parametrize("stage", STAGES)
def test_a_workdir_has_what_the_documentation_says(chain, stage):
    one = chain[stage]
    found = {path.name.partition(".tfevents")[0] for path in one.workdir.iterdir()}
    expected = {"checkpoints", "config.json", "metrics.jsonl", "curves.png", "export"}
    expected.add("events.out")
    if stage == "vica2_stage1_align":
        expected.add("base")  # the HF folder, converted
    if stage == "vica2_stage4_thinking":
        expected.add("bad_samples.jsonl")
    assert found == expected
    config = json.loads((one.workdir / "config.json").read_text())
    assert (config["name"], config["max_steps"]) == (stage, 2)
    assert build(TrainSettings, config, complete=True).global_batch_size == 4
    assert sorted(p.name for p in (one.workdir / "checkpoints").iterdir()) == ["1", "2"]
    export = one.workdir / "export"
    assert one.result.out == f"{stage}: {os.path.relpath(export)}\n"
    assert read_manifest(one.workdir / "export").provenance["step"] == 2
    with Image.open(one.workdir / "curves.png") as image:
        assert min(image.size) > 200


def test_every_step_is_logged(chain):
    for one in chain.values():
        assert [line["step"] for line in one.metrics] == [1, 2]
        assert [line["consumed"] for line in one.metrics] == [4, 8]
        for line in one.metrics:
            assert np.isfinite([line["loss"], line["grad_norm"]]).all()
        rates = [line["learning_rate/base"] for line in one.metrics]
        assert rates[0] == 0 < rates[1]  # one step of warm-up


def test_a_sample_that_cannot_be_read_is_named_and_counted(chain):
    one = chain["vica2_stage4_thinking"]
    (line,) = (one.workdir / "bad_samples.jsonl").read_text().splitlines()
    bad = json.loads(line)
    assert bad["id"] == "missing-video" and "missing.mp4" in bad["reason"]
    assert bad["source"].endswith("stage4-and-broken.json") and bad["index"] == 7
    assert one.metrics[-1]["bad"] == 1


def test_a_run_that_has_ended_is_left_as_it_is(chain, data):
    one = chain["vica2_stage4_thinking"]
    before = {p: p.stat().st_mtime_ns for p in (one.workdir / "export").rglob("*")}
    flags = [
        f"--config.{key}={value}"
        for key, value in {
            "init_from": one.base,
            "data.mixture": data / STAGES["vica2_stage4_thinking"],
            "data.image_folder": data,
            "data.video_folder": data,
            "max_steps": 2,
        }.items()
    ]
    config = "configs/vica2_stage4_thinking.py:smoke"
    result = run("train", f"--config={config}", f"--workdir={one.workdir}", *flags)
    assert result.code == 0, result.err
    after = {p: p.stat().st_mtime_ns for p in (one.workdir / "export").rglob("*")}
    assert after == before and len(one.metrics) == 2


@pytest.mark.parametrize("at", ["", "checkpoints/1"])
def test_a_saved_step_as_an_hf_folder_has_the_weights(chain, at, tmp_path):
    one = chain["vica2_stage3_spatial"]
    hf = tmp_path / "hf"
    result = run("convert_checkpoint", source=one.workdir / at, target=hf, to="hf")
    assert result.code == 0, result.err
    assert f"step {1 if at else 2} of" in result.out
    back = tmp_path / "back"
    assert run("convert_checkpoint", source=hf, target=back).code == 0
    # At the first step of a warm-up the rate is 0: that model is the base.
    assert weights(back) == weights(one.base if at else one.workdir / "export")


# --------------------------------------------------------------------- other variants
def test_adapters_train_alone_and_load_for_inference(chain, train):
    base = chain["vica2_stage3_spatial"].workdir / "export"
    flags = ("--config.max_steps=2", "--config.lora.rank=4")
    config, texts = "vica2_stage4_thinking.py:smoke,lora", "stage2/words.jsonl"
    one = train(config, texts, *flags, base=base)
    changed = {path for path, other in one.changed().items() if other}
    kernels = [p for p in one.changed() if p.startswith("llm/layers/")]
    assert changed == {path for path in kernels if path.endswith("_proj/kernel")}
    adapter = one.workdir / "export-adapter"
    assert {p.name for p in adapter.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    # As scripts.generate --adapter loads it: the base with it is the merged export.
    params = dict(leaves(load_assistant(base, dtype="float32", adapter=adapter).params))
    for path, leaf in iter_leaves(one.workdir / "export"):
        if path in changed:
            np.testing.assert_allclose(params[path], leaf, atol=1e-6, err_msg=path)


def test_sixteen_samples_are_learned_by_heart(train):
    """ViCA on videos, folders of frames, images and texts, everything in training."""
    one = train(
        "vica_finetune.py:smoke",
        "overfit.json",
        "--config.epochs=14",
        "--config.global_batch_size=16",
        "--config.per_device_batch_size=16",
        "--config.optimizer.schedule=constant",
        "--config.optimizer.rates.base=3e-3",
        "--config.optimizer.rates.siglip=3e-3",
        "--config.data.num_frames=4",
        "--config.data.images=padded",
        "--config.data.shapes.views=1",
        "--config.data.shapes.lengths=320",
        "--config.checkpoint.every=1",
    )
    losses = [line["loss"] for line in one.metrics]
    assert len(losses) == 14 and losses[0] > 5
    assert losses[-1] < 0.05
    still = {path for path, other in one.changed().items() if not other}
    assert still == {"siglip/post_norm/bias", "siglip/post_norm/scale"}


@pytest.mark.parametrize("name", [*STAGES, "vica_finetune"])
def test_every_config_is_one_that_training_takes(name):
    config = import_module(f"configs.{name}")
    own = ("base_only",) if name in ("vica_finetune", "vica2_stage3_spatial") else ()
    for variant in (*VARIANTS, *own, *(f"{one},smoke" for one in own)):
        settings = build(TrainSettings, config.get_config(variant or None))
        assert settings.name == name
        assert (settings.lora is not None) == ("lora" in variant)
        assert (settings.data.num_frames == 64) == ("smoke" not in variant)
        assert (settings.data.exclude != "") == ("base_only" in variant)


def test_base_only_leaves_complex_reasoning_out():
    config = vica2_stage3_spatial.get_config("base_only")
    names = ("a/arkitscenes_base.json", "a/scannet_complex_data.json")
    assert [bool(re.fullmatch(config.data.exclude, name)) for name in names] == [0, 1]


def test_hiera_trains_by_one_row():
    table = common.all_but_hiera()
    assert table.count("hiera/.*=frozen") == 1
