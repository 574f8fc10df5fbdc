"""Writers: files that training and evaluation read, whole or not there."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from vica_jax.data.mixture import read_mixture
from vica_jax.data.record import check_record
from vica_jax.eval.benchmarks import read_benchmark
from vica_jax.world import records
from vica_jax.world.generate import make_scene
from vica_jax.world.interview import interview
from vica_jax.world.records import (
    BASE,
    COMPLEX,
    FILES,
    BenchmarkFile,
    JsonLists,
    SceneRecords,
    VicaFiles,
    make_record,
    mixture_text,
    place_video,
    video_name,
    write_image,
)
from vica_jax.world.scene import Scene, SceneError

ROOMS = 6


def filmed(number: int) -> Scene:
    scene = make_scene(19, number)
    seen = {c: 0.7 * k for k, c in enumerate(scene.categories)}
    return scene.with_first_seen(seen)


@pytest.fixture(scope="module")
def told() -> list[SceneRecords]:
    return [interview(filmed(k), 19, number=k, thoughts=2) for k in range(ROOMS)]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def write(folder: Path, told: list[SceneRecords]) -> VicaFiles:
    with VicaFiles(folder) as vica, BenchmarkFile(folder / "vsibench") as bench:
        for scene in told:
            vica.add_scene(scene)
            bench.add(scene.rows)
    vica.finish()
    return vica


def test_training_reads_all_of_it(tmp_path, told):
    vica = write(tmp_path, told)
    expected = [
        record for scene in told for part in scene.files.values() for record in part
    ]
    assert sum(vica.counts.values()) == len(expected) > 40 * ROOMS
    read = []
    for name in ("mixture.yaml", "thinking.yaml"):
        mixture = read_mixture(tmp_path / name, seed=0)
        read += [mixture[k].value for k in range(len(mixture))]
    as_text = [
        sorted(json.dumps(record) for record in part) for part in (read, expected)
    ]
    assert as_text[0] == as_text[1]
    for record in read:
        check_record(record, time_instruction=False)
        folder, _, name = record["video"].partition("/")
        assert folder == "world" and name.startswith("room19_")
    thoughts = read_mixture(tmp_path / "thinking.yaml", seed=0)
    assert len(thoughts) == 2 * ROOMS
    answers = [thoughts[k].value["conversations"][1]["value"] for k in range(2)]
    assert all(answer.startswith("<|im_start|>think\n") for answer in answers)


def test_files_have_the_names_of_the_data_set(tmp_path, told):
    write(tmp_path, told)
    names = {name.removesuffix(".json") for name in contents(tmp_path / "world")}
    assert names == set(FILES)
    assert set(FILES) == {
        *(f"base/{name}" for name in BASE),
        *(f"complex/{name}" for name in COMPLEX),
        "thinking",
    }
    lines = (tmp_path / "mixture.yaml").read_text().splitlines()
    assert lines[:2] == ["datasets:", '  - json_path: "world/base/object_count.json"']
    assert not any("thinking" in line for line in lines)


def test_evaluation_reads_all_of_it(tmp_path, told, monkeypatch):
    monkeypatch.setattr(records, "ROWS_AT_ONCE", 50)
    write(tmp_path, told)
    benchmark = read_benchmark(tmp_path / "vsibench")
    rows = [row for scene in told for row in scene.rows]
    assert benchmark.refused == () and len(benchmark.questions) == len(rows) > 150
    for number, (question, row) in enumerate(
        zip(benchmark.questions, rows, strict=True)
    ):
        assert question.id == str(number)
        assert question.doc == row | {"id": number}
        assert question.video == f"world/{row['scene_name']}.mp4"


def test_the_same_records_are_the_same_bytes(tmp_path, told):
    through_json = [SceneRecords(*json.loads(json.dumps(scene))) for scene in told]
    again = [interview(filmed(k), 19, number=k, thoughts=2) for k in range(ROOMS)]
    for name, scenes in (("a", told), ("b", through_json), ("c", again)):
        write(tmp_path / name, scenes)
    first, *others = (contents(tmp_path / name) for name in "abc")
    assert all(other == first for other in others)
    assert not [name for name in first if "/." in name or name.startswith(".")]


def test_a_scene_without_a_number_has_its_own_draws():
    scene = filmed(1)
    by_name = interview(scene, 3)
    assert by_name == interview(scene, 3) != interview(scene, 4)
    assert by_name != interview(scene, 3, number=1)
    short = interview(scene, 3, per_task=1, thoughts=0)
    assert "thinking" not in short.files
    assert len(short.files["base/object_relative_direction"]) == 3
    assert all(
        len(part) == 1
        for name, part in short.files.items()
        if name != "base/object_relative_direction"
    )


def test_an_interrupted_run_leaves_nothing(tmp_path, told):
    with (
        pytest.raises(RuntimeError, match="stop"),
        VicaFiles(tmp_path) as vica,
        BenchmarkFile(tmp_path / "vsibench") as bench,
    ):
        vica.add_scene(told[0])
        bench.add(told[0].rows * 200)
        assert len(contents(tmp_path)) > 10
        raise RuntimeError("stop")
    assert contents(tmp_path) == {}


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), JsonLists(tmp_path) as lists:
        lists.add("a.json", [{"id": 1}])
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    with JsonLists(tmp_path) as lists:
        lists.add("a.json", [{"id": 1}])
        lists.add("b.json", [])
        lists.add("a.json", iter([{"id": "é"}, {"id": 3}]))
        assert target.read_text() == "old"
    assert json.loads(target.read_text("utf-8")) == [{"id": 1}, {"id": "é"}, {"id": 3}]
    assert os.listdir(tmp_path) == ["a.json"] and lists.counts == {"a.json": 3}


def test_no_rows_no_file(tmp_path):
    with BenchmarkFile(tmp_path) as bench:
        bench.add([])
    assert os.listdir(tmp_path) == []


def test_many_files_need_no_open_ones(tmp_path):
    with JsonLists(tmp_path) as lists:
        for number in range(300):
            lists.add(f"{number}.json", [{}])
        opened = (
            len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
        )
        assert opened < 200
    assert len(os.listdir(tmp_path)) == 300


def test_records_of_media():
    asked = make_record([("What?", "This."), ("And?", "That.")], image="a.png", id="a")
    assert list(asked) == ["image", "id", "conversations"]
    assert asked["conversations"][0] == {"from": "human", "value": "<image>\nWhat?"}
    assert asked["conversations"][2] == {"from": "human", "value": "And?"}
    check_record(asked)
    tagged = make_record([("<image>\nWhat?", "This.")], video="w/a.mp4")
    assert tagged["conversations"][0]["value"] == "<image>\nWhat?"
    assert make_record([("a", "b")])["conversations"][0]["value"] == "a"


def test_mixture_text_keeps_odd_names(tmp_path):
    name = 'a "b": #c.json'
    (tmp_path / name).write_text(
        '[{"conversations": [{"from": "human", "value": "a"}]}]'
    )
    (tmp_path / "m.yaml").write_text(mixture_text([name]))
    assert len(read_mixture(tmp_path / "m.yaml", seed=0)) == 1


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\nb"])
def test_names_that_are_no_files(name):
    scene = make_scene(1, 1)
    for changed in ({"name": name}, {"dataset": name}):
        odd = Scene(
            **{
                "name": "a",
                "dataset": "b",
                "boxes": scene.boxes,
                "area": 1.0,
            }
            | changed
        )
        with pytest.raises(SceneError, match=r"scene .*is no file name: rename it"):
            video_name(odd)


def test_videos_are_linked_or_copied(tmp_path, monkeypatch):
    source = tmp_path / "film.mp4"
    source.write_bytes(b"film")
    linked = tmp_path / "out" / "world" / "a.mp4"
    for _ in range(2):
        place_video(source, linked)
    assert linked.samefile(source)

    def fail(*_):
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", fail)
    copied = tmp_path / "copy.mp4"
    copied.write_bytes(b"old")
    place_video(source, copied)
    assert copied.read_bytes() == b"film" and not copied.samefile(source)
    assert sorted(os.listdir(tmp_path)) == ["copy.mp4", "film.mp4", "out"]


def test_images_come_back_as_they_were(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    write_image(tmp_path / "i" / "a.png", rgb)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "i" / "a.png")), rgb)


@pytest.mark.parametrize("name", ["mixture.yaml", "videos", "VSIBench", "world.json"])
def test_datasets_do_not_take_the_place_of_our_files(name):
    scene = replace(filmed(1), dataset=name)
    with pytest.raises(SceneError, match=f"^scene .*its dataset '{name}' would take"):
        video_name(scene)


def test_mixtures_name_files_in_any_script():
    names = ["\U0001f600/base/room_size.json", 'a"b\\\u00e9/thinking.json']
    found = yaml.safe_load(mixture_text(names))["datasets"]
    assert [entry["json_path"] for entry in found] == names
