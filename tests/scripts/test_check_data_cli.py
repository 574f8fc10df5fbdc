"""``scripts.make_smoke_data`` and ``scripts.check_data``: from flags to files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import run
from PIL import Image

# ml_collections 1.1 loads config files by a method that Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

ROOT = Path(__file__).parents[2]
MIXTURES = {
    "stage1.json": 10,
    "stage2.yaml": 29,
    "stage3.json": 23,
    "stage4.json": 10,
    "overfit.json": 16,
    "validation.json": 10,
}
CONFIG = """
from ml_collections import ConfigDict


def get_config(arg=""):
    data = {
        "mixture": arg,
        "image_folder": %(smoke)r,
        "video_folder": %(smoke)r,
        "num_frames": 8,
        "num_workers": 0,
        "validation": "",
        "validation_share": 0.0,
    }
    return ConfigDict(
        {"init_from": %(model)r, "global_batch_size": 4, "seed": 1, "data": data}
    )
"""


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("data") / "smoke"
    result = run("make_smoke_data", target=target)
    assert (result.code, result.err) == (0, "")
    assert "stage3.json" in result.out and "13 videos" in result.out
    return target


@pytest.fixture(scope="module")
def config(smoke, vica2, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("config") / "config.py"
    path.write_text(CONFIG % {"smoke": str(smoke), "model": str(vica2)})
    return str(path)


@pytest.fixture
def look(config, smoke, tmp_path):
    """``check_data`` on one of the data set's mixtures."""

    def call(mixture: str, *flags: str, **options):
        file = mixture if os.sep in mixture else smoke / mixture
        options = {"workdir": tmp_path / "out"} | options
        # ml_collections wants the config before the flags that change it.
        return run("check_data", f"--config={config}:{file}", *flags, **options)

    return call


# ----------------------------------------------------------------- make_smoke_data
def test_the_same_flags_write_the_same_bytes(smoke, tmp_path):
    for name, seed in (("again", 0), ("other", 1)):
        assert run("make_smoke_data", target=tmp_path / name, seed=seed).code == 0
    first = contents(smoke)
    assert contents(tmp_path / "again") == first
    other = contents(tmp_path / "other")
    assert {name for name in other if name[:6] != "frames"} == {
        name for name in first if name[:6] != "frames"
    }
    assert other["videos/000.mp4"] != first["videos/000.mp4"]
    assert other["stage3.json"] != first["stage3.json"]


def test_sizes_are_as_asked(tmp_path):
    target = tmp_path / "small"
    target.mkdir()  # an empty folder is taken
    result = run("make_smoke_data", target=target, videos=2, images=3, folders=1)
    assert result.code == 0
    assert len(list((target / "videos").iterdir())) == 2 + 3
    assert len(list((target / "images").iterdir())) == 3 + 3
    assert len(json.loads((target / "stage3.json").read_text())) == 2 + 2 + 1
    assert len(json.loads((target / "overfit.json").read_text())) == 16
    assert os.listdir(tmp_path) == ["small"]  # no unfinished folder


def test_answers_follow_from_what_is_shown(smoke):
    """Colours are read off the first frame of stills and compared with captions."""
    colours = {"red": (200, 40, 40), "white": (240, 240, 240)}
    for record in json.loads((smoke / "stage1.json").read_text()):
        caption = record["conversations"][1]["value"].lower()
        with Image.open(smoke / record["image"]) as image:
            shown = {pixel for _, pixel in image.getcolors(1 << 16)}
        for name, colour in colours.items():
            assert (name in caption) == (colour in shown), record["id"]


def test_a_target_that_cannot_be(smoke, tmp_path):
    before = contents(smoke)
    assert "not an empty folder" in run("make_smoke_data", target=smoke).line
    assert contents(smoke) == before
    (tmp_path / "file").write_text("")
    result = run("make_smoke_data", target=tmp_path / "file" / "data")
    assert "file" in result.line
    assert "--target" in run("make_smoke_data").line
    assert "videos" in run("make_smoke_data", target=tmp_path / "x", videos=0).line
    assert os.listdir(tmp_path) == ["file"]


# ---------------------------------------------------------------------- check_data
@pytest.mark.parametrize("mixture", MIXTURES)
def test_every_stage_is_sound(look, mixture, tmp_path):
    result = look(mixture, "--full", "--strict")
    assert (result.code, result.err) == (0, "")
    count = MIXTURES[mixture]
    assert f"{count} usable, 0 bad" in result.out
    assert f"{-(-count // 4)} steps" in result.out
    assert sorted(os.listdir(tmp_path / "out")) == [
        "check_data.json",
        "token_lengths.png",
    ]
    facts = json.loads((tmp_path / "out" / "check_data.json").read_text())["training"]
    assert facts["usable"] == facts["tokens"]["exact_records"] == count
    assert facts["files"]["header_only"] == 0
    assert facts["epoch"]["steps"] == -(-count // 4)
    with Image.open(tmp_path / "out" / "token_lengths.png") as image:
        image.verify()


def test_broken_records_are_named(look, tmp_path):
    result = look("broken.json")
    assert (result.code, result.err) == (0, "")
    assert "18 usable, 12 bad (40.00%)" in result.out
    for name in ("missing.mp4", "cut_late.mp4", "text.png", "no_frames", "wrong role"):
        assert name in result.out
    facts = json.loads((tmp_path / "out" / "check_data.json").read_text())["training"]
    assert len(facts["file_problems"]) == 8
    assert {p["id"] for p in facts["record_problems"]} == {
        *("no-conversations", "wrong-roles", "too-many-tags", "two-media")
    }
    assert "12 of 30 records cannot be used" in look("broken.json", "--strict").line


def test_nothing_usable(look, tmp_path):
    result = look("all_bad.json")
    assert "none of its 12 records can be used" in result.line
    assert os.listdir(tmp_path / "out") == ["check_data.json"]


def test_missing_folder_of_videos(look, tmp_path):
    result = look("stage3.json", "--config.data.video_folder=/none/there")
    assert "none of its 23 records" in result.line and "/none/there" in result.line
    assert "13 missing" in result.out


def test_validation_is_looked_at_too(look, smoke, tmp_path):
    held = f"--config.data.validation={smoke / 'validation.json'}"
    result = look("stage1.json", held)
    assert result.code == 0
    report = json.loads((tmp_path / "out" / "check_data.json").read_text())
    assert report["validation"]["records"] == MIXTURES["validation.json"]
    assert "epoch" not in report["validation"]
    assert (tmp_path / "out" / "token_lengths-validation.png").is_file()
    bad = f"--config.data.validation={smoke / 'all_bad.json'}"
    assert "all_bad.json: none" in look("stage1.json", bad).line
    share = look("stage1.json", "--config.data.validation_share=0.2")
    assert "8 records (2 held out)" in share.out


def test_both_checkpoint_forms_count_alike(look, vica, native, tmp_path):
    reports = []
    for name, model in (("hf", vica), ("native", native)):
        workdir = tmp_path / name
        flag = f"--config.init_from={model}"
        result = look("stage2.yaml", flag, workdir=workdir, sample=0)
        assert result.code == 0, result.err
        reports.append(json.loads((workdir / "check_data.json").read_text()))
    assert reports[0] == reports[1]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.init_from=nowhere", "no such folder"),
        ("--config.init_from=docs", "no config.json"),
        ("--config.data.mixture=none.json", "none.json"),
        ("--config.data.num_frames=many", "num_frames"),
        ("--sample=-1", "sample"),
    ],
)
def test_bad_input(look, flag, message, tmp_path):
    assert message in look("stage1.json", flag).line
    assert not (tmp_path / "out" / "check_data.json").exists()


def test_no_config():
    assert "--config" in run("check_data").line


def test_jax_is_never_imported(config, smoke, tmp_path):
    code = (
        "import runpy, sys\n"
        "try:\n"
        "    runpy.run_module('scripts.check_data', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "found = {'jax', 'jaxlib', 'flax', 'orbax', 'grain'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    flags = [f"--config={config}:{smoke / 'stage2.yaml'}", f"--workdir={tmp_path}"]
    command = [sys.executable, "-c", code, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "check_data.json").is_file()
