"""Checking data: counts equal training's, faults are found and named."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from convert.hf_config import from_hf
from vica_jax.data import check, check_report
from vica_jax.data.check import Findings, check_mixture
from vica_jax.data.headers import look_at
from vica_jax.data.mixture import read_mixture
from vica_jax.data.pixels import open_image
from vica_jax.data.record import labels, make_example
from vica_jax.data.settings import DataSettings, ShapeBuckets
from vica_jax.data.tokenizer import load_tokenizer
from vica_jax.data.video_file import index_file
from vica_jax.layout import VisualLayout

TESTS = Path(__file__).parents[1]
CHECKPOINT = TESTS / "goldens" / "tiny-vica2" / "checkpoint"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("data") / "smoke"
    command = [sys.executable, "-m", "scripts.make_smoke_data", f"--target={target}"]
    subprocess.run(command, cwd=TESTS.parent, check=True, capture_output=True)
    return target


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(CHECKPOINT)


@pytest.fixture(scope="module")
def layout() -> VisualLayout:
    hf = json.loads((CHECKPOINT / "config.json").read_text())
    return from_hf(hf)[1].layout


@pytest.fixture
def find(smoke, tokenizer, layout):
    def call(mixture: str, *, sample=None, layout=layout, seed=0, **fields) -> Findings:
        given = {"num_frames": 8, "num_workers": 2} | fields
        settings = DataSettings(
            mixture=str(smoke / mixture),
            image_folder=str(smoke),
            video_folder=str(smoke),
            **given,
        )
        return check_mixture(
            read_mixture(settings.mixture, seed=seed),
            tokenizer=tokenizer,
            layout=layout,
            settings=settings,
            sample=sample,
            seed=seed,
        )

    return call


# ------------------------------------------------------------------------- counts
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_frames": 3, "time_instruction": False, "images": "padded"},
        {"fps": 1.0, "num_frames": 6, "folder_fps": 4.0},
    ],
    ids=["uniform", "padded", "fps"],
)
@pytest.mark.parametrize("mixture", ["stage2.yaml", "stage3.json"])
def test_headers_count_what_opening_counts(find, mixture, fields):
    opened, seen = find(mixture, **fields), find(mixture, sample=0, **fields)
    assert opened.exact.all() and opened.usable.all()
    for name in ("text", "visual", "targets", "kind", "source"):
        np.testing.assert_array_equal(getattr(opened, name), getattr(seen, name), name)
    # Without files there is nothing to open.
    np.testing.assert_array_equal(seen.exact, seen.kind == 0)
    assert not any(facts.opened for facts in seen.files.values())


def test_counts_are_those_of_examples(find, smoke, tokenizer, layout):
    found = find("stage2.yaml", sample=0)
    mixture = read_mixture(found.settings.mixture, seed=0)
    for i in range(len(mixture)):
        example = make_example(
            mixture[i].value,
            tokenizer=tokenizer,
            layout=layout,
            settings=found.settings,
        )
        assert found.text[i] + found.visual[i] == example.length(layout)
        assert found.targets[i] == np.sum(labels(example)[1:] != -100)


def test_long_records_and_cut_targets(find, layout):
    found = find("stage2.yaml", sample=0)
    total = found.text + found.visual
    limit = int(np.median(total[found.kind == 1]))  # of images: videos still fit
    limit = max(limit, layout.video_tokens(8))
    short = find("stage2.yaml", sample=0, layout=replace(layout, context_length=limit))
    facts = check_report.summarise(short)["tokens"]
    assert facts["over_context"] == np.sum(total > limit) > 0
    assert facts["over_context_share"] == np.mean(total > limit)
    cut = total > limit
    assert (short.targets[cut] <= found.targets[cut]).all()
    assert short.targets[cut].sum() < found.targets[cut].sum()
    np.testing.assert_array_equal(short.targets[~cut], found.targets[~cut])


def test_videos_past_the_context_are_bad_records(find, layout):
    tight = replace(layout, context_length=layout.video_tokens(8) - 1)
    for sample in (0, None):
        found = find("stage3.json", layout=tight, sample=sample)
        assert not found.usable.any()
        assert len(found.problems) == len(found.usable)
        assert "past the context length" in found.problems[0].reason
        assert not any(facts.problem for facts in found.files.values())


# ------------------------------------------------------------------------- faults
FAULTS = {
    "broken/missing.mp4": "no such file",
    "broken/missing.png": "no such file",
    "broken/cut.mp4": "no video",
    "broken/cut_late.mp4": "cut short",
    "broken/nothing.mp4": "too damaged to open",
    "broken/no_frames": "without image files",
    "broken/text.png": "not a readable image",
    "broken/cut.png": "truncated",
}
RECORDS = {
    "no-conversations": "no conversations",
    "wrong-roles": "wrong role order",
    "too-many-tags": "2 <image> tag",
    "two-media": "image and video",
}
BEHIND_A_HEADER = {"broken/cut_late.mp4", "broken/cut.png"}


@pytest.mark.parametrize("mixture", ["broken.json", "all_bad.json"])
def test_every_fault_is_found_and_named(find, smoke, mixture):
    found = find(mixture)
    bad = {p: facts for p, facts in found.files.items() if facts.problem}
    assert {str(p.relative_to(smoke)) for p in bad} == set(FAULTS)
    for name, reason in FAULTS.items():
        facts = bad[smoke / name]
        assert reason in facts.problem and str(smoke) not in facts.problem
        assert facts.missing == (reason == "no such file")
    assert {p.id: p.reason for p in found.problems}.keys() == RECORDS.keys()
    for problem in found.problems:
        assert RECORDS[problem.id] in problem.reason
        assert problem.source == found.settings.mixture
    ids = [record["id"] for record in json.loads((smoke / mixture).read_text())]
    good = [i for i, name in enumerate(ids) if name.startswith("good")]
    assert np.flatnonzero(found.usable).tolist() == good


def test_headers_hide_some_damage(find, smoke):
    found = find("all_bad.json", sample=0)
    bad = {
        str(path.relative_to(smoke))
        for path, facts in found.files.items()
        if facts.problem
    }
    assert bad == set(FAULTS) - BEHIND_A_HEADER
    assert found.usable.sum() == len(BEHIND_A_HEADER)
    assert not found.exact.any()


def test_a_bad_file_spoils_each_record_that_names_it(find, smoke, tmp_path):
    (tmp_path / "half.png").write_bytes((smoke / "images/000.png").read_bytes()[:-30])
    turns = [
        {"from": "human", "value": "<image>\n<image>\nSame?"},
        {"from": "gpt", "value": "No."},
    ]
    half, whole = str(tmp_path / "half.png"), "images/001.png"
    records = [
        {"id": 1, "image": [whole, half], "conversations": turns},
        {"id": 2, "image": [half, whole], "conversations": turns},
        {"id": 3, "image": [whole, whole], "conversations": turns},
    ]
    path = tmp_path / "records.json"
    path.write_text(json.dumps(records))
    found = find(str(path))
    assert found.usable.tolist() == [False, False, True]
    assert found.problems == []
    (problem,) = check_report.summarise(found)["file_problems"]
    assert (problem["path"], problem["records"]) == (half, 2)


def test_reasons_stand_without_the_records_name(find, tmp_path):
    path = tmp_path / "records.jsonl"
    turns = [
        {"from": "human", "value": "<image>\nWhat?"},
        {"from": "gpt", "value": "It."},
    ]
    records = [
        {"id": 7},
        {},
        {"id": "a", "image": "images/000.png", "conversations": turns},
        {"id": "b", "video": "images/000.png", "conversations": turns},
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    found = find(str(path))
    assert [(p.id, p.index) for p in found.problems] == [("7", 0), ("", 1), ("b", 3)]
    assert found.problems[0].reason == found.problems[1].reason == "no conversations"
    assert "named as an image and as a video" in found.problems[2].reason
    assert found.usable.tolist() == [False, False, True, False]


# ------------------------------------------------------------------------ headers
def test_headers_say_what_the_readers_say(smoke):
    for path in sorted((smoke / "videos").iterdir()):
        facts, index = look_at(path, "video", 2.0), index_file(str(path))
        assert (facts.frames, facts.fps) == (index.total, index.avg_fps)
        assert facts.problem == "" and not facts.opened
    folder = smoke / "frames" / "000"
    facts = look_at(folder, "video", 2.0)
    assert (facts.kind, facts.fps) == ("folder", 2.0)
    assert facts.frames == len(list(folder.iterdir()))
    assert facts.seconds == facts.frames / 2


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_turned_images(tmp_path, suffix, orientation):
    path = tmp_path / f"photo{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 30), "red").save(path, exif=exif)
    assert look_at(path, "image", 2.0).size_wh == open_image(path).size


@pytest.mark.parametrize("kind", ["image", "video"])
def test_what_is_no_file(tmp_path, kind):
    (tmp_path / "folder.png").mkdir()
    assert look_at(tmp_path / "folder.png", kind, 2.0).problem
    assert look_at(tmp_path / ("x" * 300), kind, 2.0).problem
    assert look_at(tmp_path / "none.png", kind, 2.0).missing


# ------------------------------------------------------------------------- sample
def test_sample_takes_turns(find):
    found = find("stage2.yaml", sample=6)
    opened = [path for path, facts in found.files.items() if facts.opened]
    assert 6 <= len(opened) <= 7  # a record of two images may be the last
    exact = found.exact & (found.kind > 0)
    assert set(found.kind[exact]) == {1, 2, 3}  # image, images, video
    again, other = find("stage2.yaml", sample=6), find("stage2.yaml", sample=6, seed=1)
    np.testing.assert_array_equal(again.exact, found.exact)
    assert other.exact.shape == found.exact.shape


@given(
    named=st.lists(
        st.tuples(st.integers(0, 2), st.sets(st.integers(0, 12), max_size=3)),
        min_size=1,
        max_size=30,
    ),
    sample=st.none() | st.integers(0, 15),
    seed=st.integers(0, 3),
)
def test_chosen_records_cover_the_sample(named, sample, seed):
    count = len(named)
    found = Findings(
        sources=(),
        excluded=(),
        layout=VisualLayout(),
        settings=DataSettings(mixture="x.json"),
        source=np.array([source for source, _ in named], np.int32),
        kind=np.zeros(count, np.int8),
        text=np.zeros(count, np.int64),
        visual=np.zeros(count, np.int64),
        targets=np.zeros(count, np.int64),
        exact=np.zeros(count, bool),
    )
    paths = [tuple(Path(str(i)) for i in sorted(files)) for _, files in named]
    chosen = check._choose(found, paths, range(count), sample, seed)
    every = {path for files in paths for path in files}
    covered: set[Path] = set()
    for index in chosen:
        assert sample is None or len(covered) < sample
        assert not covered.issuperset(paths[index])  # each adds a file
        covered.update(paths[index])
    assert len(covered) >= min(len(every), count if sample is None else sample)
    if sample is None:
        assert covered == every


# ------------------------------------------------------------------------- report
def test_summary_adds_up(find):
    buckets = ShapeBuckets(lengths=(60, 150, 260))
    found = find("stage2.yaml", sample=4, shapes=buckets)
    facts = check_report.summarise(found)
    json.dumps(facts)
    n = facts["records"]
    assert n == len(found.text) == sum(facts["modalities"].values())
    assert [s["taken"] for s in facts["sources"]] == [5, 10, 3, 3, 3, 5]
    for source in facts["sources"]:
        assert sum(source["modalities"].values()) == source["taken"]
        assert source["bad"] == 0
    files = facts["files"]
    assert files["opened"] + files["header_only"] == files["named"]
    assert facts["videos"]["count"] + facts["images"]["count"] == files["named"]
    per_bucket = facts["tokens"]["per_bucket"]
    assert sum(per_bucket.values()) == n
    total = found.text + found.visual
    # Past the last bucket its step is repeated: 260 + 110.
    assert per_bucket.keys() == {"60", "150", "260", "370"}
    assert per_bucket["60"] == np.sum(total <= 60)
    assert per_bucket["370"] == np.sum(total > 260)
    assert facts["tokens"]["total"]["max"] == total.max()
    seconds = facts["videos"]["seconds"]
    assert seconds["min"] <= seconds["median"] <= seconds["max"]


def test_epoch(find):
    found = find("stage3.json", sample=0, validation_share=0.25)
    facts = check_report.epoch_facts(
        found, global_batch_size=4, epochs=3, max_steps=0, seed=1
    )
    assert (facts["records"], facts["held_out"]) == (17, 6)
    assert (facts["steps_per_epoch"], facts["steps"]) == (5, 15)
    short = check_report.epoch_facts(
        found, global_batch_size=4, epochs=3, max_steps=7, seed=1
    )
    assert short["steps"] == 7


def test_lines_name_the_first_faults(find, monkeypatch):
    facts = check_report.summarise(find("broken.json"))
    lines = "\n".join(check_report.describe(facts))
    for word in ("missing: ", "cut_late.mp4", "no-conversations", "would stop"):
        assert word in lines
    assert check_report.first_reason(facts) in lines
    monkeypatch.setattr(check_report, "SHOWN", 2)
    few = "\n".join(check_report.describe(facts))
    assert "8 files that cannot be used, the first 2:" in few
    assert "text.png" not in few
    good = check_report.summarise(find("stage1.json", sample=0))
    assert check_report.first_reason(good) == ""
    assert "cannot be used" not in "\n".join(check_report.describe(good))


@pytest.mark.parametrize("spread", [1, 4000], ids=["linear", "logarithmic"])
def test_picture(find, tmp_path, spread):
    found = find("stage2.yaml", sample=0)
    found.text[0] *= spread
    target = tmp_path / "tokens.png"
    check_report.plot_tokens(found, target)
    assert os.listdir(tmp_path) == ["tokens.png"]
    with Image.open(target) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[0] > 600 and (pixels < 200).any(-1).mean() > 0.01
