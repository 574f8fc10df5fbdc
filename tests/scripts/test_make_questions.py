"""``scripts.make_questions``: annotations in, training data and a benchmark out."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import run

from vica_jax.data.mixture import read_mixture
from vica_jax.eval.benchmarks import read_benchmark
from vica_jax.world import records
from vica_jax.world.generate import make_scene
from vica_jax.world.scene import Scene
from vica_jax.world.scene_file import scene_json, write_scene


def meta_info(scene: Scene, dataset: str = "scannet") -> dict[str, Any]:
    """A scene as VSI-Bench's metadata has it."""
    boxes: dict[str, list] = {}
    for box in scene.boxes:
        boxes.setdefault(box.category, []).append(
            {
                "centroid": box.centre.tolist(),
                "axesLengths": box.size.tolist(),
                "normalizedAxes": box.axes.ravel().tolist(),
                "min": box.low.tolist(),
                "max": box.high.tolist(),
            }
        )
    return {
        "dataset": dataset,
        "video_path": f"films/{scene.name}_film.mp4",
        "room_size": scene.area,
        "room_center": [0, 0, 0],
        "object_counts": {name: len(found) for name, found in boxes.items()},
        "object_bbox": boxes,
    }


@pytest.fixture
def annotated(tmp_path: Path) -> Path:
    """Three scenes in VSI-Bench's form, three in the plain one, in one folder."""
    folder = tmp_path / "scans"
    folder.mkdir()
    meta = {s.name: meta_info(s) for s in (make_scene(23, k) for k in range(3))}
    (folder / "scannet.json").write_text(json.dumps(meta))
    plain = [scene_json(make_scene(23, k)) for k in (3, 4)]
    (folder / "own.json").write_text(json.dumps(plain))
    write_scene(folder / "single.json", make_scene(23, 5))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_both_forms_of_both_annotations(annotated, tmp_path):
    out = tmp_path / "out"
    result = run("make_questions", scenes=annotated, out=out, per_task=2)
    assert (result.code, result.err) == (0, "")
    assert "6 scenes in" in result.out and "0 faults" in result.out
    assert "no furniture of 3 scenes" in result.out
    mixture = read_mixture(out / "mixture.yaml", seed=0)
    videos = {mixture[k].value["video"] for k in range(len(mixture))}
    names = [make_scene(23, k).name for k in range(6)]
    assert videos == {
        *(f"scannet/{name}.mp4" for name in names[:3]),
        *(f"world/{name}.mp4" for name in names[3:]),
    }
    benchmark = read_benchmark(out / "vsibench")
    assert benchmark.refused == () and set(benchmark.videos) == videos
    counts = [sum(q.video == v for q in benchmark.questions) for v in videos]
    assert max(counts) <= 2 * 9 and min(counts) > 5
    types = {question.question_type for question in benchmark.questions}
    assert "obj_appearance_order" not in types and len(types) == 9
    assert len(read_mixture(out / "thinking.yaml", seed=0)) == 6


def test_same_seed_same_bytes_and_scenes_apart(annotated, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert (
            run("make_questions", scenes=annotated, out=tmp_path / name, seed=seed).code
            == 0
        )
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b and a != c
    only = annotated / "single.json"
    assert run("make_questions", scenes=only, out=tmp_path / "d", seed=1).code == 0
    name = f"world/{make_scene(23, 5).name}.mp4"
    for file in ("base/object_abs_distance", "complex/conversation", "thinking"):
        together, alone = (
            [
                record
                for record in json.loads(
                    (tmp_path / out / f"world/{file}.json").read_text()
                )
                if record["video"] == name
            ]
            for out in "ad"
        )
        assert together == alone != []


def test_one_form(annotated, tmp_path):
    run("make_questions", scenes=annotated, out=tmp_path / "v", form="vsibench")
    assert list(contents(tmp_path / "v")) == ["vsibench/test.parquet"]
    run("make_questions", scenes=annotated, out=tmp_path / "t", form="vica")
    assert not (tmp_path / "t" / "vsibench").exists()
    assert (tmp_path / "t" / "mixture.yaml").is_file()


def test_videos_are_put_beside_the_questions(annotated, tmp_path):
    films = tmp_path / "films-of-all"
    names = [make_scene(23, k).name for k in range(6)]
    places = [
        f"scannet/{names[0]}",
        f"films/{names[1]}_film",
        names[3],
        f"world/{names[4]}",
    ]
    for place in places:
        path = films / f"{place}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(place.encode())
    out = tmp_path / "out"
    result = run("make_questions", scenes=annotated, out=out, videos=films)
    assert result.code == 0
    for name in (names[2], names[5]):
        assert f"scene {name}: no video " in result.out
    assert "4 scenes in" in result.out and "2 of those read are left out" in result.out
    for form in ("videos", "vsibench"):
        for number, dataset in (
            (0, "scannet"),
            (1, "scannet"),
            (3, "world"),
            (4, "world"),
        ):
            film = out / form / dataset / f"{names[number]}.mp4"
            place = places[[0, 1, None, 2, 3][number]]  # pyright: ignore
            assert film.read_bytes() == place.encode()
    benchmark = read_benchmark(out / "vsibench")
    assert all((out / "vsibench" / video).is_file() for video in benchmark.videos)
    mixture = read_mixture(out / "mixture.yaml", seed=0)
    for k in range(len(mixture)):
        assert (out / "videos" / mixture[k].value["video"]).is_file()


def test_bad_scenes_are_named_and_the_rest_goes_on(annotated, tmp_path):
    good = meta_info(make_scene(23, 7))
    broken = {"object_bbox": {}, "object_counts": {}}
    zero = json.loads(json.dumps(good))
    first = next(iter(zero["object_bbox"].values()))[0]
    first["axesLengths"][1] = 0.0
    lost = json.loads(json.dumps(good))
    next(iter(lost["object_bbox"].values()))[0]["centroid"][0] = math.nan
    strange = json.loads(json.dumps(good))
    strange["object_bbox"]["flurbel"] = next(iter(good["object_bbox"].values()))
    lone = good | {"room_size": 0.5, "object_counts": {}, "object_bbox": {}}
    lone["object_bbox"] = {
        "bed": good["object_bbox"][sorted(good["object_bbox"])[0]][:1]
    }
    wall: Any = scene_json(make_scene(23, 8)) | {"name": "through"}
    wall["boxes"][0] = wall["boxes"][0] | {"centre": [30.0, 0.0, 0.5]}
    bad = {
        "empty": good | broken,
        "flat": zero,
        "nowhere": lost,
        "strange": strange,
    }
    (annotated / "bad.json").write_text(json.dumps(bad))
    (annotated / "walls.json").write_text(json.dumps(wall))
    (annotated / "torn.json").write_text('{"a": ')
    result = run("make_questions", scenes=annotated, out=tmp_path / "out")
    assert (result.code, result.err) == (0, ""), result.err
    for name in ("empty", "flat", "nowhere", "strange", "through"):
        lines = [x for x in result.out.splitlines() if x.startswith(f"scene {name}: ")]
        assert lines and all(len(line) < 300 for line in lines), name
    assert "torn.json" in result.out and "flurbel" in result.out
    assert "Traceback" not in result.out
    assert "10 scenes in" in result.out
    benchmark = read_benchmark(tmp_path / "out" / "vsibench")
    assert benchmark.refused == ()
    assert not any("flurbel" in question.question for question in benchmark.questions)
    assert "nan" not in " ".join(
        str(q.doc["ground_truth"]) for q in benchmark.questions
    )


def test_the_same_scene_twice_counts_once(annotated, tmp_path):
    (annotated / "zzz.json").write_text((annotated / "single.json").read_text())
    result = run("make_questions", scenes=annotated, out=tmp_path / "out")
    name = make_scene(23, 5).name
    assert f"scene {name}: a second scene of that name" in result.out
    assert "6 scenes in" in result.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scenes": "nowhere.json"}, "nowhere.json"),
        ({"scenes": "{tmp}/none"}, "without *.json"),
        ({"scenes": "{tmp}/bad.json"}, "no scene can be used"),
        ({"scenes": "{tmp}/torn.json"}, "torn.json"),
        ({"form": "csv"}, "--form=csv: take vica or vsibench"),
        ({"form": ""}, "--form=: take vica or vsibench"),
        ({"out": "{tmp}"}, "is not an empty folder: choose another --out"),
        ({"videos": "{tmp}/nofilms"}, "no such folder"),
        ({"videos": "{tmp}/none"}, "no scene is left"),
        ({"per_task": 0}, "per_task"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_input_is_one_line(annotated, tmp_path, options, said):
    (tmp_path / "none").mkdir()
    (tmp_path / "bad.json").write_text(json.dumps({"name": "a", "boxes": []}))
    (tmp_path / "torn.json").write_text("[")
    options = {"scenes": annotated, "out": tmp_path / "out"} | {
        key: value.format(tmp=tmp_path) if isinstance(value, str) else value
        for key, value in options.items()
    }
    result = run("make_questions", **options)
    assert said in result.line
    assert not (tmp_path / "out").exists() or not contents(tmp_path / "out")


def test_required_flags(tmp_path):
    assert "--scenes is missing" in run("make_questions", out=tmp_path / "o").line
    assert "--out is missing" in run("make_questions", scenes=tmp_path).line


@pytest.mark.parametrize(
    "video", ["/etc/film.mp4", "../film.mp4", "a/../../film.mp4", "film.txt", "film"]
)
def test_videos_come_from_their_folder_alone(annotated, tmp_path, video):
    scene = make_scene(23, 5)
    films = tmp_path / "films"
    films.mkdir()
    for path in (tmp_path / "film.mp4", films / "film.txt", films / "film"):
        path.write_bytes(b"secret")
    scans = tmp_path / "scans" / "single.json"
    write_scene(scans, replace(scene, video=video))
    result = run("make_questions", scenes=scans, out=tmp_path / "o", videos=films)
    (line,) = [x for x in result.out.splitlines() if scene.name in x]
    assert line.startswith(f"scene {scene.name}: its video {video!r} is no ")
    assert result.code == 1


def test_one_scene_s_film_that_fails_is_a_line(annotated, tmp_path, monkeypatch):
    films = tmp_path / "films"
    films.mkdir()
    names = [make_scene(23, k).name for k in range(6)]
    for name in names:
        (films / f"{name}.mp4").write_bytes(b"film")
    place = records.place_video

    def fail(source: Path, target: Path) -> None:
        if names[2] in str(target) and "vsibench" in str(target):
            raise OSError(5, "Input/output error")
        place(source, target)

    monkeypatch.setattr(records, "place_video", fail)
    out = tmp_path / "out"
    result = run("make_questions", scenes=annotated, out=out, videos=films)
    assert result.code == 0, result.err
    (line,) = [x for x in result.out.splitlines() if names[2] in x]
    assert line.startswith(f"scene {names[2]}: its video ") and "left out" in line
    assert "5 scenes in" in result.out
    assert not list(out.rglob(f"{names[2]}*"))
    assert names[2] not in (out / "scannet" / "thinking.json").read_text()


def test_a_film_that_may_be_of_two_datasets_is_of_none(tmp_path):
    scene = make_scene(23, 5)
    scans, films = tmp_path / "scans", tmp_path / "films"
    for name in ("one", "two"):
        write_scene(scans / f"{name}.json", replace(scene, dataset=name))
    (films / "two").mkdir(parents=True)
    (films / f"{scene.name}.mp4").write_bytes(b"whose")
    (films / "two" / f"{scene.name}.mp4").write_bytes(b"two's")
    out = tmp_path / "out"
    result = run("make_questions", scenes=scans, out=out, videos=films)
    assert result.code == 0
    assert f"{scene.name}.mp4 may be of dataset two too: put it in one/" in result.out
    (film,) = (out / "videos").rglob("*.mp4")
    assert film.read_bytes() == b"two's"
