"""``scripts.train`` with what cannot be trained: one line, status 1, nothing lost."""

import functools
import json
import re
import shutil
from collections import namedtuple
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from command_line import Result, edit_json, run
from train import short_run

from convert.quantize import quantize_native
from vica_jax.checkpoint import read_step
from vica_jax.checkpoint.step import LeafReader, saved_steps
from vica_jax.train import stage
from vica_jax.train import state as train_state

ROOT = Path(__file__).parents[2]
STAGE = "configs/vica2_stage3_spatial.py"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module", autouse=True)
def traced_once():
    """Nearly all of these runs ask for the shapes of the same model."""
    with pytest.MonkeyPatch.context() as patch:
        cached = functools.cache(train_state.abstract_vica)
        patch.setattr(train_state, "abstract_vica", cached)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return short_run.write_base(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return short_run.write_data(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def config(base, data, tmp_path_factory) -> Path:
    """A run of six steps of a second, saved at each."""
    settings = short_run.make_settings(base, data, per_device_batch_size=4)
    return short_run.write_config(tmp_path_factory.mktemp("c") / "short.py", settings)


@pytest.fixture
def refused(config, tmp_path):
    """``refused("KEY=VALUE", ...)``: the line of a run that saves nothing."""

    def call(*changes: str) -> str:
        workdir = tmp_path / "run"
        flags = [f"--config.{change}" for change in changes]
        result = run("train", f"--config={config}", f"--workdir={workdir}", *flags)
        assert result.out == "" and not saved_steps(workdir / "checkpoints")
        assert not (workdir / "export").exists()
        return last_line(result)

    return call


def last_line(result: Result) -> str:
    """The one error, after what was said of the run before it."""
    assert result.code == 1, result.err
    *before, last = result.err.splitlines()
    assert last.startswith("error: ") and "Traceback" not in result.err
    assert not any(line.startswith(("error", " ")) for line in before), result.err
    return last


# ------------------------------------------------------------------------- the flags
COMMANDS = {
    "no config": ([], "--config is missing or empty"),
    "empty config": (["--config="], "--config is empty: write --config=configs/NAME"),
    "no workdir": ([f"--config={STAGE}:smoke"], "--workdir is missing or empty"),
    "config that is not there": (
        ["--config=configs/vica2_stage3_spatail.py"],
        r"no such file: did you mean configs/vica2_stage3_spatial\.py\?",
    ),
    "with a change": (["--config=no.py", "--config.seed=1"], "no.py: no such file"),
    "folder as config": (["--config=configs"], "--config=configs: no such file"),
    "not Python": (["--config=Makefile"], "Makefile: line [0-9]+: SyntaxError"),
    "no get_config": (["--config=configs/__init__.py"], "not a config file"),
    "unknown variant": (
        [f"--config={STAGE}:smok"],
        "no variant 'smok': take base_only, lora, small, smoke",
    ),
    "change before config": (["--config.seed=1", f"--config={STAGE}"], "--config.seed"),
    "unknown flag": ([f"--config={STAGE}", "--steps=3"], "flag 'steps'"),
    "word": ([f"--config={STAGE}", "--workdir=w", "more"], "argument 'more'"),
    "unknown key": (
        [f"--config={STAGE}", "--config.x=1"],
        "config has no 'x': it has ",
    ),
    "key misspelt": (
        [f"--config={STAGE}", "--config.data.num_frame=1"],
        r"config\.data has no 'num_frame': did you mean --config\.data\.num_frames\?",
    ),
    "key elsewhere": (
        [f"--config={STAGE}", "--config.mixture=a.json"],
        r"did you mean --config\.data\.mixture\?",
    ),
    "key of no group": (
        [f"--config={STAGE}", "--config.lora.rank=3"],
        r"config\.lora is None and has no settings in it",
    ),
    "key of nothing": ([f"--config={STAGE}", "--config.=3"], r"--config\.=3: "),
    "word for a number": (
        [f"--config={STAGE}", "--config.epochs=many"],
        r"--config\.epochs=many: .*int",
    ),
    "share for a number": ([f"--config={STAGE}", "--config.seed=1.5"], "seed=1.5: "),
    "number for a group": ([f"--config={STAGE}", "--config.data=3"], "data=3: "),
    "value missing": ([f"--config={STAGE}", "--config.seed"], r"--config\.seed"),
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_flags(kind, tmp_path, monkeypatch):
    flags, message = COMMANDS[kind]
    assert re.search(message, run("train", *flags).line)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere\n", "line 1: ModuleNotFoundError: No module named 'nowhere'"),
        ("def get_config():\n    return None.x\n", "line 2: AttributeError: "),
        ("def get_config():\n    pass\n", "not a config file: AttributeError: "),
    ],
)
def test_a_broken_config_file(text, message, tmp_path):
    path = tmp_path / "broken.py"
    path.write_text(text)
    assert f"--config={path}: {message}" in run("train", f"--config={path}").line


# ---------------------------------------------------------------------- the settings
SETTINGS = {
    "dtype=float16": r"config\.dtype: takes 'float32' or 'bfloat16', got 'float16'",
    "remat=some": r"config\.remat: takes 'full' or",
    "init_from=": "init_from: name the checkpoint to start from",
    "global_batch_size=0": "global_batch_size: must be >= 1, got 0",
    "epochs=0": "epochs: must be >= 1",
    "max_steps=-1": "max_steps: must be >= 0",
    "frame_chunk=0": "frame_chunk: must be >= 1",
    "context_length=-1": "context_length: must be >= 0",
    "seed=-1": "seed: must be >= 0",
    "validate_every=-1": "validate_every: must be >= 0",
    "optimizer.rates.base=nan": r"rates\.base: must be >= 0, got nan",
    "optimizer.rates.base=inf": r"rates\.base: must be >= 0, got inf",
    "optimizer.rates.siglip=-1": r"rates\.siglip: must be >= 0",
    "optimizer.schedule=linear": "takes 'cosine' or 'constant'",
    "optimizer.warmup_ratio=2": "warmup_ratio: must lie in 0..1",
    "optimizer.b1=1": r"b1: must lie in \[0, 1\), got 1.0",
    "optimizer.eps=0": "eps: must be positive",
    "optimizer.clip_norm=nan": "clip_norm: must be >= 0, got nan",
    "optimizer.weight_decay=-1": "weight_decay: must be >= 0",
    "checkpoint.every=0": "every: 0 of all steps",
    "checkpoint.every=2": "every: a share of all steps",
    "checkpoint.every_steps=-1": "every_steps: must be >= 0",
    "checkpoint.keep_last=0": "keep_last: must be >= 1",
    "log.line_every=0": "line_every: must be >= 1",
    "data.mixture=": r"config\.data: mixture: name a YAML, \.json or \.jsonl file",
    "data.images=crop": "takes 'anyres' or 'padded'",
    "data.fps=0": "fps: must be positive, got 0",
    "data.folder_fps=-1": "folder_fps: must be positive",
    "data.num_workers=-1": "num_workers: must be >= 0",
    "data.max_bad_share=2": "max_bad_share: must lie in 0..1",
    "data.validation_share=-1": "validation_share: must lie in 0..1",
    "data.shapes.raw_side=0": "raw_side: must be >= 1",
    "data.shapes.lengths=many": r"shapes\.lengths\[0\]: takes int, got str 'many'",
}


@pytest.mark.parametrize("change", SETTINGS)
def test_settings(change, tmp_path):
    flags = f"--config={STAGE}:smoke", f"--workdir={tmp_path / 'run'}"
    line = run("train", *flags, f"--config.{change}").line
    assert re.search(SETTINGS[change], line)
    assert not list(tmp_path.iterdir())


FITTING = {
    "global_batch_size=6": "global_batch_size 6 is no multiple of 4 = per_device",
    "mesh.data=3": r"mesh .* does not fit [0-9]+ devices",
    "mesh.fsdp=0": "sizes are positive",
    "data.num_frames=0": "num_frames must be at least 1",
    "trainable=": "the table has no row",
    "trainable=.*": r"cannot read the row '\.\*'; write pattern=group",
    "trainable=(=base": "'[(]' is no regular expression",
    "trainable=.*=other": "names no rate: base, siglip or frozen",
    "trainable=hiera/.*=frozen, hierra_projector/.*=base, .*=base": (
        r"the row hierra_projector/\.\*=base matches no parameter of this model"
    ),
    "trainable=hiera/.*=frozen, siglip/.*=siglip": "no row matches hiera_projector/",
    "trainable=.*=base, siglip/.*=siglip": "is never reached",
    "trainable=.*=frozen": "every parameter is frozen",
    "data.validation_share=1.0": "leaves none to train on",
    "data.validation=none.json": r"none\.json: 1 of 1 source\(s\) missing",
    "validate_every=1": "validate_every is set and nothing is held out",
    "data.exclude=.*": r"exclude '\.\*' leaves none of 1 source",
    "data.image_folder=nowhere": r"data\.image_folder: nowhere is no folder: name one",
    "data.video_folder=nowhere": r"data\.video_folder: nowhere is no folder",
    "data.hiera_cache=nowhere": r"is no folder \(python -m scripts\.cache_features",
    "data.mixture=nowhere.json": r"nowhere\.json: 1 of 1 source\(s\) missing",
    "data.mixture=nowhere.yaml": r"nowhere\.yaml: cannot read it",
    "data.mixture=configs": r"a mixture is a \.yaml file",
    "init_from=nowhere": "nowhere: no such folder",
    "init_from=org/model": "the hub id cannot be downloaded",
    "init_from=tests": "tests: no config.json; a Hugging Face model folder is needed",
}


@pytest.mark.parametrize("change", FITTING)
def test_settings_that_do_not_fit(change, refused):
    assert re.search(FITTING[change], refused(change))


# --------------------------------------------------------------- mixtures and records
MIXTURES = {
    "empty.json": ("[]", "the mixture is empty: 1 source"),
    "cut.json": ('[{"id": 1}, {"id"', "bad JSON in line 1"),
    "empty.yaml": ("datasets: []\n", "no datasets"),
    "broken.yaml": ("datasets: [\n", "not YAML in line 2"),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures(name, refused, tmp_path):
    text, message = MIXTURES[name]
    path = tmp_path / name
    path.write_text(text)
    line = refused(f"data.mixture={path}")
    assert message in line and name in line


def record(**changes):
    turns = [
        {"from": "human", "value": "<image>\nWhere?"},
        {"from": "gpt", "value": "x"},
    ]
    return {"id": "one", "image": "r0.png", "conversations": turns} | changes


def turns(*values):
    roles = "human", "gpt"
    return [{"from": roles[i % 2], "value": v} for i, v in enumerate(values)]


RECORDS = {
    "no conversations": (
        {k: v for k, v in record().items() if k != "conversations"},
        "no conversations",
    ),
    "wrong role order": (
        record(conversations=turns("<image>", "a", "b", "c")[::2]),
        "wrong role order: turn 2",
    ),
    "more tags": (
        record(conversations=turns("<image>\n<image>\nWhere?", "x")),
        r"2 <image> tag\(s\) but 1 image",
    ),
    "missing file": (record(image="gone.png"), r"gone\.png: no such image"),
    "two media": (record(video="v.mp4"), "has image and video"),
}


def test_a_mixture_whose_every_sample_is_bad(refused, tmp_path):
    """All are named, each with its reason; nothing is trained on."""
    path = tmp_path / "bad.json"
    records = [value | {"id": name} for name, (value, _) in RECORDS.items()]
    path.write_text(json.dumps(records))
    line = refused(f"data.mixture={path}", "global_batch_size=8")
    assert line.startswith(
        "error: 5 of 5 samples cannot be read, past data.max_bad_share = 0.5 "
    )
    assert "scripts.check_data" in line
    listed = (tmp_path / "run" / "bad_samples.jsonl").read_text().splitlines()
    reasons = {bad["id"]: bad["reason"] for bad in map(json.loads, listed)}
    assert reasons.keys() == RECORDS.keys()
    for name, (_, message) in RECORDS.items():
        assert re.search(message, reasons[name])


def test_a_context_too_short_for_any_answer(refused):
    line = refused("context_length=16", "data.max_bad_share=0.2")
    assert line.startswith("error: 4 of 4 samples cannot be read")
    assert "no answer begins within the context length of 16" in line


# ---------------------------------------------------------- checkpoints to start from
def test_the_checkpoint_of_another_model(native, tmp_path):
    """ViCA has no Hiera, which stage 3 of ViCA2 names."""
    flags = f"--workdir={tmp_path / 'run'}", f"--config.init_from={native}"
    line = run("train", f"--config={STAGE}:smoke", *flags).line
    assert "the row hiera/.*=frozen matches no parameter of this model" in line


def test_adapters_of_modules_that_are_not_there(native, tmp_path):
    flags = f"--workdir={tmp_path / 'run'}", f"--config.init_from={native}"
    flags += ("--config.lora.targets=attention",)
    line = run("train", "--config=configs/vica_finetune.py:smoke,lora", *flags).line
    assert "'attention' matches no module of this model; the nearest is" in line


def test_a_checkpoint_of_another_shape(base, refused, tmp_path):
    other = shutil.copytree(base, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    text = json.dumps(manifest).replace('"mlp_dim": 64', '"mlp_dim": 48')
    (other / "manifest.json").write_text(text)
    line = refused(f"init_from={other}")
    assert str(other) in line and re.search(r"llm/.*_proj/kernel", line)


def test_an_int8_checkpoint_does_not_train(base, refused, tmp_path):
    quantize_native(base, tmp_path / "int8")
    line = refused(f"init_from={tmp_path / 'int8'}")
    assert "its weights are int8, for inference only: training needs" in line


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_workdir_that_cannot_be(place, config, tmp_path):
    (tmp_path / "file").write_text("text")
    line = run("train", f"--config={config}", workdir=tmp_path / place).line
    assert f"--workdir={tmp_path / place}: no folder can be made here" in line
    assert (tmp_path / "file").read_text() == "text"


# ------------------------------------------------------------------- while it trains
def test_a_loss_that_diverges(config, tmp_path):
    """Past all numbers after one step; what is saved has none that is not finite."""
    texts = [{"id": i, "conversations": turns("Where?", "Here.")} for i in range(8)]
    (tmp_path / "texts.json").write_text(json.dumps(texts))  # compiles in seconds
    changes = {
        "data.mixture": tmp_path / "texts.json",
        "optimizer.rates.base": 1e30,
        "optimizer.schedule": "constant",
    }
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
    result = run("train", f"--config={config}", *flags, workdir=tmp_path / "run")
    assert re.match(
        r"error: step 2: (loss|grad_norm) is (nan|inf) and the run stops \(the last "
        r"checkpoint is step 1\): lower the rates",
        last_line(result),
    )
    assert not (tmp_path / "run" / "export").exists()
    checkpoints = tmp_path / "run" / "checkpoints"
    assert saved_steps(checkpoints) == [1]
    assert all(np.isfinite(x).all() for x in state(checkpoints, 1).values())


def state(checkpoints: Path, step: int) -> dict[str, np.ndarray]:
    saved = read_step(checkpoints, step)
    return {path: LeafReader(saved=saved, path=path).read() for path in saved.leaves}


def standing_step(*args, **kwargs):
    """In place of a compiled step: it counts, and changes nothing."""

    def step(state, frozen, batch):
        done = {name: jnp.float32(1) for name in ("loss", "grad_norm", "tokens")}
        return state.replace(step=state.step + 1), done | {"target_tokens": 1}

    return step


@pytest.fixture(scope="module")
def begun(config, tmp_path_factory):
    """A run that the disk had no room for after its second step, and what it said."""
    workdir = tmp_path_factory.mktemp("begun") / "run"
    free = iter([1 << 40, 1 << 40])
    usage = namedtuple("usage", "free")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(shutil, "disk_usage", lambda path: usage(next(free, 0)))
        patch.setattr(stage, "make_train_step", standing_step)
        result = run("train", f"--config={config}", workdir=workdir)
    return workdir, result


def test_a_full_disk_ends_the_run_and_keeps_what_is_saved(begun):
    workdir, result = begun
    line = last_line(result)
    assert re.match(r"error: .*: step 3 could not be saved: it takes 0\.00 GB", line)
    assert line.endswith("(steps kept: 1, 2)")
    assert saved_steps(workdir / "checkpoints") == [1, 2]


ANOTHER_RUN = {
    "seed=1": "began with seed = 7, now it is 1",
    "optimizer.rates.base=0.5": r"optimizer\.rates\.base = 0\.001, now it is 0\.5",
    "epochs=3": "began with epochs = 2",
    "max_steps=3": "is 6 steps long, now it would be 3",
    "context_length=64": "began with context_length",
    "trainable=hiera/.*=frozen, .*=base": "began with trainable = 'hiera/",
    "name=other": "began with name = 'short'",
}


@pytest.mark.parametrize("change", ANOTHER_RUN)
def test_a_workdir_of_another_run(change, begun, config):
    workdir = begun[0]
    before = contents(workdir)
    flags = f"--config={config}", f"--workdir={workdir}", f"--config.{change}"
    line = run("train", *flags).line
    assert line.startswith(f"{workdir}: ") and re.search(ANOTHER_RUN[change], line)
    assert "--workdir" in line and contents(workdir) == before


def test_a_workdir_of_another_mixture_or_model(begun, config, data, tmp_path):
    workdir = begun[0]
    before = contents(workdir)
    records = json.loads((data / "data.json").read_text())
    (tmp_path / "less.json").write_text(json.dumps(records[1:]))
    other = short_run.write_base(tmp_path / "model", seed=2)
    for change, message in {
        f"data.mixture={tmp_path / 'less.json'}": "the mixture has changed since this",
        f"init_from={other}": "whose weights are not those of",
    }.items():
        flags = f"--config={config}", f"--workdir={workdir}", f"--config.{change}"
        assert message in run("train", *flags).line
        assert contents(workdir) == before


def test_a_damaged_record_of_a_saved_step(begun, config, tmp_path):
    workdir = shutil.copytree(begun[0], tmp_path / "run")
    (file,) = (workdir / "checkpoints" / "2").rglob("*record*.json")
    edit_json(file, leaves={})
    line = run("train", f"--config={config}", workdir=workdir).line
    assert str(workdir / "checkpoints") in line


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
