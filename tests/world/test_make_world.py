"""A world on disk: complete, resumable, the same bytes whoever made it."""

import fcntl
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from vica_jax.world.film import first_seen, read_film
from vica_jax.world.folder import WorldError, WorldSettings
from vica_jax.world.generate import make_scene
from vica_jax.world.make import make_rooms
from vica_jax.world.scene import SceneError
from vica_jax.world.scene_file import read_scenes

ROOT = Path(__file__).parents[2]
SETTINGS = WorldSettings(rooms=3, seed=6, first=2, width=48, height=36, captions=2)
NAMES = ["room6_00002", "room6_00003", "room6_00004"]


def contents(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "world"
    steps = []
    make_rooms(
        out, SETTINGS, jobs=0, progress=lambda done, total: steps.append((done, total))
    )
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]
    return out


def test_everything_is_there(world):
    files = contents(world)
    for name in NAMES:
        assert f"videos/world/{name}.mp4" in files
        assert files[f"vsibench/world/{name}.mp4"] == files[f"videos/world/{name}.mp4"]
    assert not any("parts" in name or "/." in name for name in files)
    report = json.loads(files["world.json"])
    assert (report["rooms"], report["problems"]) == (3, [])
    for name, count in report["counts"].items():
        if name.endswith(".json"):
            assert len(json.loads(files[name])) == count > 0
    rows = pq.read_table(world / "vsibench/test.parquet").to_pylist()
    assert len(rows) == report["counts"]["vsibench/test.parquet"]
    assert {row["scene_name"] for row in rows} == set(NAMES)
    records = json.loads(files["world/base/room_size.json"])
    videos = [record["video"] for record in records]
    assert videos == [f"world/{name}.mp4" for name in NAMES]
    assert all(f"videos/{video}" in files for video in videos)


def test_scenes_and_films_agree(world):
    scenes, lines = read_scenes(world / "scenes")
    assert [scene.name for scene in scenes] == NAMES and lines == []
    seconds = 0.0
    for number, scene in enumerate(scenes, SETTINGS.first):
        film = read_film(world / "films" / f"{scene.name}.json")
        assert scene.first_seen == first_seen(scene, film)
        assert 12 <= film.seconds <= 30
        seconds += film.seconds
        assert (
            scene.boxes[0].centre.tolist()
            == make_scene(6, number).boxes[0].centre.tolist()
        )
    report = json.loads((world / "world.json").read_text())
    assert report["seconds"] == pytest.approx(seconds)


def test_captions_name_their_images(world):
    pairs = json.loads((world / "captions.json").read_text())
    assert len(pairs) == 6
    for pair in pairs:
        with Image.open(world / "images" / pair["image"]) as image:
            assert image.size == (48, 36)
        assert len(pair["conversations"]) == 2
    assert "captions.json" in (world / "stage2.yaml").read_text()


def test_processes_and_the_command_give_the_same_bytes(world, tmp_path):
    command = [sys.executable, "-m", "scripts.make_world", f"--out={tmp_path / 'out'}"]
    command += ["--rooms=3", "--seed=6", "--first=2", "--size=48,36", "--captions=2"]
    done = subprocess.run(
        [*command, "--jobs=2"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "3 of 3 rooms" in done.stdout
    assert contents(tmp_path / "out") == contents(world)


def test_a_stopped_run_goes_on(world, tmp_path):
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise Stop

    out = tmp_path / "out"
    with pytest.raises(Stop):
        make_rooms(out, SETTINGS, jobs=0, progress=stop)
    assert not (out / "world.json").exists()
    half = out / "videos/world/.room6_00004.mp4.abcdefgh.mp4"
    half.write_bytes(b"half")
    foreign = [out / ".htaccess", out / ".notes.txt.mine.txt", out / "scenes/.a.json"]
    for path in foreign:
        path.write_text("not of this program")
    with (out / "parts/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(WorldError, match="another process makes a world there"):
            make_rooms(out, SETTINGS, jobs=0)
        assert half.exists()
    steps = []
    make_rooms(out, SETTINGS, jobs=0, progress=lambda done, total: steps.append(done))
    assert steps == [2, 3]
    for path in foreign:
        path.unlink()
    assert contents(out) == contents(world)


def test_a_complete_world_is_left_alone(world):
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*")}
    report = make_rooms(world, SETTINGS, jobs=0)
    assert report.rooms == 3
    assert before == {path: path.stat().st_mtime_ns for path in world.rglob("*")}
    with pytest.raises(WorldError, match="another world, with seed 6"):
        make_rooms(world, replace(SETTINGS, seed=7), jobs=0)


def test_what_a_kill_leaves_beside_a_complete_world_goes(world, tmp_path):
    out = shutil.copytree(world, tmp_path / "out")
    parts = out / "parts"
    parts.mkdir()
    for name in ("settings.json", "0000003.json", ".0000004.json.0_abcdef.json"):
        (parts / name).write_text("{}")
    with (parts / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(WorldError, match="another process"):
            make_rooms(out, SETTINGS, jobs=0)
    (parts / "notes.txt").write_text("mine")
    make_rooms(out, SETTINGS, jobs=0)
    assert [path.name for path in parts.iterdir()] == ["notes.txt"]
    (parts / "notes.txt").unlink()
    make_rooms(out, SETTINGS, jobs=0)
    assert not parts.exists() and contents(out) == contents(world)


def test_two_processes_do_not_make_one_world(tmp_path):
    def again(done: int, total: int) -> None:
        with pytest.raises(WorldError, match="wait for it, or choose another"):
            make_rooms(tmp_path / "out", settings, jobs=0)
        raise SystemExit

    settings = replace(SETTINGS, films=False)
    with pytest.raises(SystemExit):
        make_rooms(tmp_path / "out", settings, jobs=0, progress=again)


def test_a_folder_killed_before_its_settings_is_begun_anew(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/lock").touch()
    (tmp_path / "parts/.settings.json.abcdefgh.json").write_text("{")

    def stop(done: int, total: int) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        make_rooms(tmp_path, SETTINGS, jobs=0, progress=stop)
    assert list(contents(tmp_path)) == ["parts/lock", "parts/settings.json"]


@pytest.mark.parametrize(
    "change",
    [
        lambda there: [1],
        lambda there: "x",
        lambda there: {},
        lambda there: there | {"more": 1},
        lambda there: there | {"rooms": "3"},
        lambda there: there | {"problems": [1]},
        lambda there: there | {"settings": there["settings"] | {"more": 1}},
        lambda there: there | {"settings": []},
    ],
)
def test_a_report_of_another_program_is_one_line(world, tmp_path, change):
    there = json.loads((world / "world.json").read_text())
    text = json.dumps(change(there))
    (tmp_path / "world.json").write_text(text)
    with pytest.raises(WorldError, match=r"no (file|world) of this program") as error:
        make_rooms(tmp_path, SETTINGS, jobs=0)
    assert "\n" not in str(error.value) and "another folder" in str(error.value)
    assert contents(tmp_path) == {"world.json": text.encode()}


@pytest.mark.parametrize("text", ["[1]", '"x"', "{}", "[" * 100_000, "\xff"])
def test_settings_of_another_program_are_one_line(tmp_path, text):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/settings.json").write_text(text, encoding="latin-1")
    with pytest.raises(WorldError, match="choose another folder"):
        make_rooms(tmp_path, SETTINGS, jobs=0)
    assert [*contents(tmp_path)] == ["parts/settings.json"]


TOLD = {"dataset": "world", "scene": "room6_00002", "files": {}, "rows": []}
PART = {"told": None, "captions": [], "problems": ["x"], "seconds": 0, "missing": {}}


@pytest.mark.parametrize(
    "part",
    [
        {},
        [],
        None,
        PART | {"captions": [1]},
        PART | {"missing": {"base": "x"}},
        PART | {"problems": []},
        PART | {"told": {}},
        PART | {"told": TOLD | {"files": {"base": []}}},
        PART | {"told": TOLD | {"rows": [[]]}},
        PART | {"told": TOLD | {"rows": [{"question": 1}]}},
        PART | {"told": TOLD | {"dataset": "../.."}},
    ],
)
def test_a_damaged_part_is_one_line(tmp_path, part):
    settings = replace(SETTINGS, rooms=1)

    def damage(done: int, total: int) -> None:
        (tmp_path / "parts/0000002.json").write_text(json.dumps(part))

    def make(*_) -> None:
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vica_jax.world.make.make_room", make)
        patch.setattr("vica_jax.world.make._renderer", make)
        with pytest.raises(WorldError, match=r"0000002.json is no file .* delete it"):
            make_rooms(tmp_path, settings, jobs=0, progress=damage)
    assert not (tmp_path / "world.json").exists()


def test_without_films_the_questions_are_the_same(world, tmp_path):
    out = tmp_path / "out"
    make_rooms(out, replace(SETTINGS, films=False), jobs=0)
    made, filmed = contents(out), contents(world)
    assert not any(name.endswith(".mp4") for name in made)
    for name in filmed:
        apart = ("scenes/", "world.json")  # a scene names its video
        if not name.endswith(".mp4") and not name.startswith(apart):
            assert made[name] == filmed[name], name


def test_a_room_that_fails_is_named_and_the_rest_goes_on(tmp_path, monkeypatch):
    def make(seed: int, number: int):
        if number == 3:
            raise SceneError("room6_00003: no room for a bed")
        return make_scene(seed, number)

    monkeypatch.setattr("vica_jax.world.make.make_scene", make)
    out = tmp_path / "out"
    settings = replace(SETTINGS, films=False, forms=("vica",))
    report = make_rooms(out, settings, jobs=0)
    assert report.problems == ["room6_00003: no room for a bed"] and report.rooms == 2
    assert not (out / "captions.json").exists() and not (out / "vsibench").exists()
    only = replace(settings, rooms=1, first=3)
    with pytest.raises(WorldError, match="no room could be made; the first: room6"):
        make_rooms(tmp_path / "none", only, jobs=0)


def test_foreign_folders_and_settings(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(WorldError, match="not an empty folder"):
        make_rooms(tmp_path, SETTINGS, jobs=0)
    for wrong in ({"forms": ("vsi",)}, {"rooms": 0}, {"width": 47}, {"height": 8}):
        with pytest.raises(WorldError):
            replace(SETTINGS, **wrong)
    for wrong in ({"width": 4098}, {"height": 2_000_000}, {"per_task": 0}):
        with pytest.raises(
            WorldError, match=f"{next(iter(wrong))} .*: at (most|least)"
        ):
            replace(SETTINGS, **wrong)
    replace(SETTINGS, width=4096, height=4096, per_task=1)
    command = [sys.executable, "-m", "scripts.make_world", f"--out={tmp_path}/new"]
    for size, line in (
        ("3x4", "--size=3x4: write WIDTH,HEIGHT"),
        ("2000000,2000000", "width 2000000: at most 4096"),
    ):
        done = subprocess.run(
            [*command, "--rooms=1", f"--size={size}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert done.stderr.splitlines()[0].startswith(f"error: {line}"), done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()
