"""``scripts.eval_sweep`` on a small benchmark with the recorded tiny ViCA2."""

import json
from pathlib import Path

import pytest
from command_line import Result, run

from scripts.smoke_benchmark import write_benchmark

RUNNING = ("frames-4_time-off", "frames-4_time-on")
FILES = ("sweep.md", "sweep.json", "sweep.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    write_benchmark(folder, "vsibench", "jsonl", seed=0, videos=2, questions=6)
    return folder


def sweep(
    checkpoint: object, data: object, workdir: object, **options: object
) -> Result:
    settings = {
        "token_ratios": "own;3,4,2;2,3,2",
        "num_frames": "4,3000",
        "max_new_tokens": 4,
    }
    return run(
        "eval_sweep",
        "--noexact",
        checkpoint=checkpoint,
        data=data,
        workdir=workdir,
        **(settings | options),
    )


@pytest.fixture(scope="module")
def found(vica2: Path, data: Path, tmp_path_factory) -> tuple[Result, Path]:
    """Twelve rows, two of which can be run."""
    workdir = tmp_path_factory.mktemp("sweep")
    return sweep(vica2, data, workdir), workdir


def facts_of(workdir: Path) -> dict:
    return json.loads((workdir / "sweep.json").read_text())


def test_rows_that_can_be_run_are_and_the_others_say_why(found):
    result, workdir = found
    assert result.code == 0, result.err
    folders = [path.name for path in workdir.iterdir() if path.is_dir()]
    assert sorted(folders) == sorted(RUNNING)
    rows = {row["name"]: row for row in facts_of(workdir)["rows"]}
    assert len(rows) == 12
    for name in RUNNING:
        row = rows.pop(name)
        assert (row["status"], row["asked"], row["answered"]) == ("done", 6, 6)
        assert row["token_ratio"] == [2, 4, 2]
        assert row["visual_tokens"] == {"siglip": 48, "hiera": 12, "total": 60}
        assert (workdir / name / "report.md").is_file()
    assert {row["status"] for row in rows.values()} == {"not run"}
    reasons = {
        "frames-4_ratio-3-4-2_time-off": "N_hiera = 3 does not divide 4 frames",
        "frames-4_ratio-2-3-2_time-on": "the projector of this checkpoint takes 128",
        "frames-3000_time-off": "past the context length of 32,768",
        "frames-3000_ratio-3-4-2_time-on": "past the context length of 32,768",
    }
    for name, reason in reasons.items():
        assert reason in rows[name]["reason"]
        (line,) = [x for x in result.out.splitlines() if x.startswith(f"{name} ")]
        assert "not run: " in line and reason in line
    assert all((workdir / name).stat().st_size for name in FILES)


def test_the_time_instruction_is_in_the_prompt(found):
    _, workdir = found
    off, on = facts_of(workdir)["rows"][:2]
    assert on["prompt_tokens"] > off["prompt_tokens"] + 20
    assert (off["difference"], on["difference"]["ties"]) == (None, 6)
    timing = facts_of(workdir)["timing"]
    assert set(timing) == set(RUNNING)
    for one in timing.values():
        assert one["videos"] == 1 and one["left_out"] == 1
        assert one["per_video"] == pytest.approx(3 * one["per_question"], abs=1e-3)


def test_the_same_command_goes_on(found, vica2, data):
    """Everything is answered: nothing is asked, nothing changes."""
    _, workdir = found
    before = {name: (workdir / name).read_bytes() for name in FILES}
    answers = [
        (workdir / name / "answers" / "shard-0-of-1.jsonl").read_bytes()
        for name in RUNNING
    ]
    assert sweep(vica2, data, workdir).code == 0
    assert {name: (workdir / name).read_bytes() for name in FILES} == before
    assert answers == [
        (workdir / name / "answers" / "shard-0-of-1.jsonl").read_bytes()
        for name in RUNNING
    ]


def test_a_row_is_an_ordinary_run(found, vica2, data, tmp_path):
    _, workdir = found
    result = run(
        "eval_vsibench",
        "--time_instruction",
        "--noexact",
        checkpoint=vica2,
        data=data,
        workdir=tmp_path,
        num_frames=4,
        max_new_tokens=4,
    )
    assert result.code == 0, result.err
    for name in ("recipe.json", "results.json", "report.md"):
        ours = (workdir / "frames-4_time-on" / name).read_bytes()
        assert ours == (tmp_path / name).read_bytes()


def test_rows_made_otherwise_are_said_and_end_in_an_error(found, vica2, data):
    _, workdir = found
    kept = {name: (workdir / name).read_bytes() for name in FILES}
    result = sweep(vica2, data, workdir, max_new_tokens=5, token_ratios="own")
    assert "2 of 4 rows failed, the first (frames-4_time-off)" in result.error
    assert "its answers were made with other decoding" in result.error
    row = facts_of(workdir)["rows"][0]
    assert row["status"] == "failed" and str(workdir) not in row["reason"]
    for name, content in kept.items():
        (workdir / name).write_bytes(content)


def test_bad_input(vica: Path, vica2: Path, data: Path, tmp_path: Path):
    for options, said in (
        ({"token_ratios": "32,4"}, "N_hiera,S_stage,s_pool"),
        ({"num_frames": "64,64"}, "64 is named twice"),
        ({"time_instruction": "yes"}, "give off, on, or off,on"),
        ({"shard": "2"}, "give i/n"),
        ({"data": tmp_path / "none"}, "none"),
        ({"workdir": ""}, "--workdir"),
    ):
        given = {"checkpoint": vica2, "data": data, "workdir": tmp_path / "run"}
        assert said in sweep(**(given | options)).line
    said = sweep(vica, data, tmp_path / "run", token_ratios="16,4,2").line
    assert "no Hiera stream: leave --token_ratios out" in said
    assert not (tmp_path / "run").exists()
    said = sweep(vica, data, tmp_path / "run", token_ratios="own", num_frames=9000)
    assert "no row could be run" in said.line and "past the context" in said.line
    assert (tmp_path / "run" / "sweep.md").is_file()


@pytest.mark.slow
def test_frames_and_time_without_hiera(vica, data, tmp_path):
    result = sweep(vica, data, tmp_path, token_ratios="own", num_frames="4,2")
    assert result.code == 0, result.err
    rows = facts_of(tmp_path)["rows"]
    assert [row["visual_tokens"]["total"] for row in rows] == [48, 48, 24, 24]
    assert {row["status"] for row in rows} == {"done"}
    assert {row["token_ratio"] for row in rows} == {None}
