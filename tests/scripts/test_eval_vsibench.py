"""``scripts.eval_vsibench``: what a user meets, and being killed."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import run

from scripts.smoke_benchmark import write_benchmark

REPORT = ("report.md", "results.json", "scores.png", "browser.html")
SMALL = {"num_frames": 4, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two videos and ten questions, and what cannot be answered."""
    target = tmp_path_factory.mktemp("bench")
    write_benchmark(target, "vsibench", None, 0, videos=2, questions=10, broken=True)
    return target


def evaluate(checkpoint, data, workdir, **flags):
    flags = {"checkpoint": checkpoint, "data": data, "workdir": workdir, **flags}
    return run("eval_vsibench", **(SMALL | flags))


def test_a_broken_benchmark_is_evaluated_and_says_so(vica, data, tmp_path):
    workdir = tmp_path / "run"
    result = evaluate(vica, data, workdir)
    assert result.code == 0, result.err
    assert all((workdir / name).stat().st_size for name in REPORT)
    found = json.loads((workdir / "results.json").read_text())
    assert (found["asked"], found["answered"]) == (13, 10)
    assert found["benchmark"]["refused"] == 3
    reasons = {entry["text"]: entry["count"] for entry in found["unanswered"]}
    assert sum(reasons.values()) == 3 and len(reasons) == 2
    refused = " ".join(entry["text"] for entry in found["refused"])
    for word in ("earlier row", "unknown question type", "option"):
        assert word in refused.lower(), refused
    report = (workdir / "report.md").read_text()
    assert "10" in result.out and "13" in result.out
    assert str(tmp_path) not in report + (workdir / "browser.html").read_text()
    again = evaluate(vica, data, workdir)
    assert again.code == 0 and "10 answers are there" not in again.out
    other = evaluate(vica, data, workdir, prompts="official")
    assert "other prompts" in other.line
    other = evaluate(vica, data, workdir, black_frames=True)
    assert "other black_frames" in other.line
    other = evaluate(vica, data, workdir, kv_dtype="int8")
    assert "other kv_dtype (kv_dtype: null there" in other.line


def test_a_shard_without_videos_is_no_error(vica, data, tmp_path):
    result = evaluate(vica, data, tmp_path / "run", shard="8/9")
    assert result.code == 0, result.err
    assert "no answer yet" in result.out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"data": "nowhere"}, "no such folder"),
        ({"benchmark": "vstibench"}, "--benchmark=vsibench"),
        ({"shard": "2/2"}, "shard 2/2"),
        ({"shard": "two"}, "--shard=two"),
        ({"shard": "\u00b2/4"}, "give i/n"),
        ({"frames": "coverage"}, "--point_maps=DIR"),
        ({"frames": "maxinfo", "candidates": 2}, "2 candidates for 4 frames"),
        ({"subset": "pruned", "benchmark": "scanqa"}, "it has full"),
        ({"batch": 0}, "batch must be >= 1"),
        ({"num_frames": 4096}, "past the context length"),
        ({"token_ratio": "32,4,2"}, "no Hiera stream"),
        ({"token_ratio": "32,4"}, "N_hiera"),
        ({"checkpoint": "no-such/model/at-all"}, "no such folder"),
    ],
)
def test_bad_input_is_one_line(vica, data, tmp_path, flags, words):
    flags = {"checkpoint": vica, "data": data, **flags}
    result = run("eval_vsibench", workdir=tmp_path / "run", **(SMALL | flags))
    assert words in result.line
    assert not (tmp_path / "run" / "answers").exists()


@pytest.mark.slow
def test_killed_at_random_and_sharded_it_ends_in_the_same_report(vica, data, tmp_path):
    """``kill -9`` three times, then two processes at once finish it."""

    log = tmp_path / "log"

    def command(workdir: str, *more: str) -> subprocess.Popen:
        flags = {"checkpoint": vica, "data": data, "workdir": tmp_path / workdir}
        arguments = [f"--{name}={value}" for name, value in (SMALL | flags).items()]
        with open(log, "a") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "scripts.eval_vsibench", *arguments, *more],
                stdout=said,
                stderr=said,
            )

    def ends_well(process: subprocess.Popen) -> None:
        assert process.wait(300) == 0, log.read_text()[-2000:]

    ends_well(command("whole"))
    shard = tmp_path / "killed" / "answers" / "shard-0-of-1.jsonl"
    rng = random.Random(0)
    for wanted in (0, 1, 2):
        process = command("killed", "--batch=2")
        end = time.monotonic() + 200
        while time.monotonic() < end and process.poll() is None:
            lines = shard.read_bytes().count(b"\n") if shard.exists() else -1
            if lines >= 2 * wanted:
                break
            time.sleep(0.01)
        time.sleep(rng.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    both = [command("killed", f"--shard={i}/2") for i in range(2)]
    for process in both:
        ends_well(process)
    for name in REPORT:
        one, other = (
            (tmp_path / run / name).read_bytes() for run in ("whole", "killed")
        )
        assert one == other, name
