"""Mixtures: the forms of sources, their strategies, and what is refused."""

import json
import logging
import math
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vica_jax.data import mixture as mixture_module
from vica_jax.data.mixture import Mixture, MixtureError, Source, read_mixture
from vica_jax.data.record_store import RecordStoreError, RecordWriter
from vica_jax.errors import InputError


def record(number, words=3, **media):
    said = " ".join(["word"] * (words - 1))
    turns = [{"from": "human", "value": said}, {"from": "gpt", "value": "yes"}]
    return {"id": f"r{number}", "conversations": turns, **media}


def write_json(path: Path, records, **layout) -> str:
    path.write_text(json.dumps(records, **layout), encoding="utf-8")
    return str(path)


def write_lines(path: Path, records) -> str:
    lines = [json.dumps(item, ensure_ascii=False) for item in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def write_yaml(path: Path, *datasets) -> str:
    lines = ["datasets:"]
    for item in datasets:
        items = [f"{key}: {json.dumps(value)}" for key, value in item.items()]
        lines.append("  - " + "\n    ".join(items))
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def ids(mixture):
    return [item.value["id"] for item in mixture]


# ------------------------------------------------------------------------ forms
@pytest.mark.parametrize("indent", [None, 2])
def test_one_json_list(tmp_path, indent):
    records = [record(0), record(1, image="a.png"), record(2, words=7, video="v.mp4")]
    path = write_json(tmp_path / "a.json", records, indent=indent)
    mixture = read_mixture(path, seed=0)
    assert [item.value for item in mixture] == records
    assert [item.index for item in mixture] == [0, 1, 2]
    assert {item.source for item in mixture} == {path}
    assert mixture.lengths.tolist() == [-3, 3, 7]
    assert mixture.lengths.dtype == np.int64
    assert mixture.sources == (
        Source(name=path, path=path, strategy="all", found=3, taken=3),
    )


def test_one_record_on_each_line(tmp_path):
    records = [record(0), {"id": "r1", "conversations": [], "note": "Grüße 漢字"}]
    path = write_lines(tmp_path / "a.jsonl", records)
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n   \n" + json.dumps(record(2)))  # no newline at the end
    mixture = read_mixture(path, seed=0)
    assert [item.value for item in mixture] == [*records, record(2)]


def test_names_in_braces(tmp_path):
    for name in "abc":
        write_json(tmp_path / f"{name}.json", [record(name), record(name * 2)])
    mixture = read_mixture(f"{tmp_path}/{{c, a}}.json", seed=0)
    assert ids(mixture) == ["rc", "rcc", "ra", "raa"]
    assert [Path(item.source).name for item in mixture] == ["c.json"] * 2 + [
        "a.json"
    ] * 2


def test_a_byte_order_mark_and_blanks_are_no_matter(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("\ufeff \n[ " + json.dumps(record(0)) + " ,\n{} ] \n", "utf-8")
    assert [item.value for item in read_mixture(path, seed=0)] == [record(0), {}]


def test_yaml_paths_count_from_the_working_folder_then_from_the_file(
    tmp_path, monkeypatch
):
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir(), here.mkdir()
    write_json(there / "a.json", [record("there")])
    write_json(there / "b.json", [record("beside")])
    write_json(here / "a.json", [record("here")])
    path = write_yaml(
        there / "m.yaml", {"json_path": "a.json"}, {"json_path": "b.json"}
    )
    monkeypatch.chdir(here)
    mixture = read_mixture(path, seed=0)
    assert ids(mixture) == ["rhere", "rbeside"]
    assert [source.name for source in mixture.sources] == ["a.json", "b.json"]
    assert mixture.sources[1].path == str(there / "b.json")


@given(
    st.sampled_from(["all", "first", "end", "random"]),
    st.integers(1, 60),
    st.booleans(),
    st.integers(0, 40),
)
def test_strategies(tmp_path_factory, kind, number, share, found):
    tmp_path = tmp_path_factory.mktemp("strategies")
    text = "all" if kind == "all" else f"{kind}:{number}{'%' * share}"
    write_lines(tmp_path / "a.jsonl", [record(i) for i in range(found)])
    write_json(tmp_path / "b.json", [record("last")])
    path = write_yaml(
        tmp_path / "m.yaml",
        {"json_path": "a.jsonl", "sampling_strategy": text},
        {"json_path": "b.json"},
    )
    mixture = read_mixture(path, seed=5)
    wanted = math.ceil(number * found / 100) if share else number
    wanted = found if kind == "all" else min(wanted, found)
    taken = [int(name[1:]) for name in ids(mixture)[:-1]]
    assert ids(mixture)[-1] == "rlast"
    assert len(taken) == wanted
    assert (mixture.sources[0].found, mixture.sources[0].taken) == (found, wanted)
    if kind == "random":
        assert taken == sorted(set(taken)) and set(taken) <= set(range(found))
    else:
        start = found - wanted if kind == "end" else 0
        assert taken == list(range(start, start + wanted))


def test_random_follows_seed_and_path_alone(tmp_path):
    for name in ("a.json", "b.json"):
        write_json(tmp_path / name, [record(i) for i in range(100)])
    path = write_yaml(
        tmp_path / "m.yaml",
        {"json_path": "a.json", "sampling_strategy": "random:10"},
        {"json_path": "b.json", "sampling_strategy": "random:10%"},
    )
    first = ids(read_mixture(path, seed=1))
    assert first == ids(read_mixture(path, seed=1))
    assert first != ids(read_mixture(path, seed=2))
    assert len(first) == 20 and first[:10] != first[10:]


def test_a_count_past_the_end_takes_all_and_says_so(tmp_path, caplog):
    write_json(tmp_path / "a.json", [record(0), record(1)])
    path = write_yaml(
        tmp_path / "m.yaml", {"json_path": "a.json", "sampling_strategy": "end:5"}
    )
    with caplog.at_level(logging.WARNING):
        assert ids(read_mixture(path, seed=0)) == ["r0", "r1"]
    assert "end:5 is more than its 2 record(s): all are taken" in caplog.text


def test_sources_are_excluded_by_their_whole_path(tmp_path, caplog):
    write_json(tmp_path / "base.json", [record("base")])
    names = ["base.json", "complex_2.json", "old/complex_4.json"]
    path = write_yaml(tmp_path / "m.yaml", *[{"json_path": name} for name in names])
    mixture = read_mixture(path, seed=0, exclude=r".*complex.*")
    assert ids(mixture) == ["rbase"]
    assert mixture.excluded == ("complex_2.json", "old/complex_4.json")
    assert caplog.text == ""
    with pytest.raises(MixtureError, match="1 of 2 source"):
        read_mixture(path, seed=0, exclude="complex.*")
    with pytest.raises(MixtureError, match="leaves none of 3 source"):
        read_mixture(path, seed=0, exclude=".*")
    with pytest.raises(MixtureError, match="is no regex: missing"):
        read_mixture(path, seed=0, exclude="(")
    read_mixture(tmp_path / "base.json", seed=0, exclude="base")
    assert "exclude 'base' matches no source" in caplog.text


# -------------------------------------------------------------------- the cache
def test_a_pickled_mixture_is_small_and_reads_the_same_file(tmp_path):
    path = write_json(tmp_path / "a.json", [record(i, 50) for i in range(500)])
    mixture = read_mixture(path, seed=0, cache_folder=tmp_path / "cache")
    assert mixture[499].value["id"] == "r499"  # opened before it is pickled
    sent = pickle.dumps(mixture)
    assert len(sent) < 1000
    copy: Mixture = pickle.loads(sent)
    assert copy.path == mixture.path and len(copy) == 500
    assert copy[7] == mixture[7]
    assert np.array_equal(copy.lengths, mixture.lengths)
    with pytest.raises(ValueError, match="read-only"):
        mixture.lengths[0] = 1


@pytest.mark.parametrize("index", [-1, 2, 10**9])
def test_indices_outside_are_refused(tmp_path, index):
    mixture = read_mixture(write_json(tmp_path / "a.json", [{}, {}]), seed=0)
    with pytest.raises(IndexError, match="of a mixture of 2"):
        mixture[index]


def test_a_later_start_replaces_the_cache(tmp_path):
    cache = tmp_path / "cache"
    path = write_json(tmp_path / "a.json", [record(0)])
    old = read_mixture(path, seed=0, cache_folder=cache)
    unopened = pickle.loads(pickle.dumps(old))
    assert old[0].value == record(0)
    same = read_mixture(path, seed=0, cache_folder=cache)
    assert same.digest == old.digest and unopened[0].value == record(0)
    write_json(tmp_path / "a.json", [record(1)])
    new = read_mixture(path, seed=0, cache_folder=cache)
    assert new.digest != old.digest and new[0].value == record(1)
    assert len(list(cache.iterdir())) == 1
    assert old[0].value == record(0)  # its pages are still mapped
    with pytest.raises(RecordStoreError, match="other records than at the start"):
        pickle.loads(pickle.dumps(old))[0]
    os.remove(new.path)
    with pytest.raises(RecordStoreError, match="cannot be opened"):
        pickle.loads(pickle.dumps(new))[0]


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    """A full disk: one clear line, and the file of the start before is untouched."""
    cache = tmp_path / "cache"
    path = write_json(tmp_path / "a.json", [record(0)])
    before = read_mixture(path, seed=0, cache_folder=cache)

    class FullDisk(RecordWriter):
        def finish(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(mixture_module, "RecordWriter", FullDisk)
    with pytest.raises(MixtureError, match=r"No space left on device\): free some"):
        read_mixture(path, seed=0, cache_folder=cache)
    assert [str(file) for file in cache.iterdir()] == [before.path]
    assert before[0].value == record(0)


def test_a_cache_folder_that_is_a_file_is_refused(tmp_path):
    path = write_json(tmp_path / "a.json", [record(0)])
    with pytest.raises(MixtureError, match="cannot write the record cache"):
        read_mixture(path, seed=0, cache_folder=path)


def test_the_temporary_cache_goes_with_the_program(tmp_path):
    path = write_json(tmp_path / "a.json", [record(0)])
    script = (
        "from vica_jax.data.mixture import read_mixture\n"
        f"m = read_mixture({path!r}, seed=0)\nprint(m.path, m[0].value['id'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    cache, name = done.stdout.split()
    assert name == "r0" and Path(cache).is_relative_to(tmp_path)
    assert not Path(cache).parent.exists()


def test_many_records_are_read_quickly(tmp_path):
    records = [record(i, words=60, video=f"{i}.mp4") for i in range(10_000)]
    write_json(tmp_path / "a.json", records, indent=1)
    write_lines(tmp_path / "b.jsonl", records)
    path = write_yaml(
        tmp_path / "m.yaml", {"json_path": "a.json"}, {"json_path": "b.jsonl"}
    )
    start = time.perf_counter()
    mixture = read_mixture(path, seed=0)
    read = time.perf_counter()
    picked = [mixture[i].value["id"] for i in range(0, len(mixture), 2)]
    assert read - start < 5 and time.perf_counter() - read < 5
    assert len(mixture) == 20_000 and picked[-1] == "r9998"


# ------------------------------------------------------------------- bad sources
@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "", "a.json: is empty: a .json source is a list"),
        ("a.json", '{"id": 1}\n{"id": 2}', "holds no list.*is a .jsonl file"),
        ("a.json", '[{"id": 1},\n {"id" 2}]', "bad JSON in line 2: Expecting ':'"),
        ("a.json", '[{"id": 1}\n{"id": 2}]', "bad JSON in line 2: expected ',' or"),
        ("a.json", '[{"id": 1},\n\n{"id": 2}', "line 3: expected .*cut off"),
        ("a.json", '[{"id": 1},\n{"id', "bad JSON in line 2: Unterminated string"),
        ("a.json", '[{"id": 1},\n]', "bad JSON in line (1|2): "),
        ("a.json", "[", "bad JSON in line 1: Expecting value"),
        ("a.json", "[{}]\n[{}]", "line 2: text after the end of the list"),
        ("a.json", '[{},\n"b"]', r"record 1 \(line 2\) is 'b', not an object"),
        ("a.json", "[" * 100_000, "bad JSON: nested too deeply"),
        ("a.json", "[]", "the mixture is empty: 1 source"),
        ("a.jsonl", "", "the mixture is empty: 1 source"),
        ("a.jsonl", "\n\n", "the mixture is empty: 1 source"),
        ("a.jsonl", '{"id": 1}\n\n{"id" 2}\n', "bad JSON in line 3: Expecting ':'"),
        ("a.jsonl", '{"id": 1}\n[{"id": 2}]\n', r"record 1 \(line 2\) is \[\{'id': 2"),
        ("a.jsonl", '{"n": ' + "1" * 5000 + "}", "bad JSON in line 1: Exceeds"),
        ("m.yaml", "", "m.yaml: no datasets"),
        ("m.yaml", "- a.json", "m.yaml: no datasets"),
        ("m.yaml", "datasets: []", "m.yaml: no datasets"),
        ("m.yaml", "datasets:\n  - json_path: [A B]/a.json", "not YAML in line 2"),
        ("m.yaml", "datasets: [a.json]", "dataset 1 is no mapping.*'a.json'"),
        ("m.yaml", "datasets: [{json: a}]", "key 'json': did you mean json_path"),
        (
            "m.yaml",
            "datasets: [{json_path: a.json, weight: 2}]",
            "unknown key 'weight': known: json_path, sampling_strategy",
        ),
        ("m.yaml", "datasets: [{sampling_strategy: all}]", "must be a path, got None"),
        ("m.yaml", "datasets: [{json_path: a.csv}]", "a.csv is neither .json nor"),
        ("m.yaml", "datasets: [{json_path: no.json}]", "1 of 1 source.* missing: no"),
        ("m.txt", "", "m.txt: a mixture is a .yaml file, {a,b}.json, or"),
        ("m.yaml", "datasets: \x00", "m.yaml: not YAML"),
    ],
)
def test_bad_sources_are_one_clear_line(tmp_path, name, text, words):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words) as caught:
        read_mixture(path, seed=0)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.parametrize("strategy", ["some", "first", "first:", "all:3", "first:-1"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_unknown_strategies(tmp_path, strategy, wrapped):
    write_json(tmp_path / "a.json", [record(0)])
    path = write_yaml(
        tmp_path / "m.yaml",
        {
            "json_path": "a.json",
            "sampling_strategy": [strategy] if wrapped else strategy,
        },
    )
    with pytest.raises(MixtureError, match="dataset 1: unknown sampling_strategy"):
        read_mixture(path, seed=0)


@pytest.mark.parametrize("strategy", ["first:0", "end:0", "random:0%", "end:0.0%"])
def test_strategies_that_take_nothing(tmp_path, strategy):
    write_json(tmp_path / "a.json", [record(0)])
    path = write_yaml(
        tmp_path / "m.yaml", {"json_path": "a.json", "sampling_strategy": strategy}
    )
    with pytest.raises(MixtureError, match="takes nothing"):
        read_mixture(path, seed=0)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_text_that_is_no_utf8(tmp_path, name):
    (tmp_path / name).write_bytes(b'[{"id": "\xff\xfe"}]')
    with pytest.raises(InputError, match="not UTF-8 text"):
        read_mixture(tmp_path / name, seed=0)


def test_missing_sources_are_listed_together(tmp_path):
    write_json(tmp_path / "a.json", [record(0)])
    with pytest.raises(MixtureError, match=r"2 of 3 source.* missing: .*b\.json, .*c"):
        read_mixture(f"{tmp_path}/{{a,b,c}}.json", seed=0)
    with pytest.raises(MixtureError, match=r"m\.yaml: cannot read it"):
        read_mixture(tmp_path / "m.yaml", seed=0)
    with pytest.raises(MixtureError, match="empty name between the braces"):
        read_mixture(f"{tmp_path}/{{a,}}.json", seed=0)


@given(st.lists(st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=4)))
def test_any_objects_come_back_as_they_were(tmp_path_factory, records):
    tmp_path = tmp_path_factory.mktemp("objects")
    write_json(tmp_path / "a.json", [*records, {}], ensure_ascii=True, indent=1)
    write_lines(tmp_path / "b.jsonl", json.loads(json.dumps([*records, {}])))
    mixture = read_mixture(f"{tmp_path}/{{a}}.json", seed=0)
    lines = read_mixture(tmp_path / "b.jsonl", seed=0)
    assert [item.value for item in mixture] == [*records, {}]
    assert [item.value for item in lines] == [*records, {}]
