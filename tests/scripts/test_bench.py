"""The bench's own arithmetic and its bad input; what it times is in tests/parity."""

import dataclasses
import importlib.util

import numpy as np
import pytest
from command_line import run
from PIL import Image

from scripts import bench_case
from scripts.bench_case import Case, Sides, measure, relative_gap, unequal_share
from scripts.bench_cpu import CASES
from scripts.bench_figure import draw_ratios


def case(ours=1.0, theirs=1.0, calls=None):
    """A case whose clock stands still but for what its sides ask for."""
    calls = [] if calls is None else calls

    def side(name, value):
        return lambda: (calls.append(name), np.full(3, value))[1]

    return Case(
        name="toy",
        said="a toy",
        bar=1.0,
        goal=0.5,
        make=lambda reduced: Sides(
            ours=side("ours", ours),
            theirs=side("theirs", theirs),
            gap=relative_gap,
            most=1e-3,
            peer="another toy",
            facts={"reduced": reduced},
        ),
    )


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    monkeypatch.setattr(bench_case, "REST", 0.0)


def test_sides_take_turns_and_the_first_changes():
    calls, waited = [], []
    row = measure(
        case(calls=calls),
        pairs=3,
        reduced=True,
        wait=lambda: waited.append(len(calls)),
    )
    assert waited == [4]  # after one run without a clock and one for the memory
    assert calls[4:] == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert row["pairs"] == 3 and row["reduced"] is True
    assert row["ratio"] > 0 and row["same"] and row["gap"] == 0
    assert set(row["peak_bytes"]) == {"ours", "theirs"}


def test_another_result_is_not_the_same():
    row = measure(case(theirs=1.01), pairs=1, reduced=False, wait=lambda: None)
    assert not row["same"] and row["gap"] == pytest.approx(0.01 / 1.01, rel=1e-4)


def test_results_of_other_shapes_are_an_error():
    with pytest.raises(ValueError, match=r"shape \(2,\) and \(3,\)"):
        relative_gap(np.ones(2), np.ones(3))
    assert unequal_share([1, 2, 3, 4], [1, 2, 0, 4]) == 0.25


def test_names_are_unique_and_goals_below_bars():
    assert len({case.name for case in CASES}) == len(CASES)
    bound = [case for case in CASES if case.bar is not None]
    assert len(bound) >= 14 and all(case.goal < case.bar for case in bound)


def test_the_figure_takes_a_case_without_a_bar(tmp_path):
    free = dataclasses.replace(case(), bar=None, goal=None)
    row = measure(free, pairs=2, reduced=True, wait=lambda: None)
    draw_ratios([row], tmp_path / "ratios.png")
    assert (tmp_path / "ratios.png").is_file()


def test_the_figure_is_a_picture(tmp_path):
    row = measure(case(), pairs=2, reduced=True, wait=lambda: None)
    draw_ratios([row, row], tmp_path / "ratios.png")
    with Image.open(tmp_path / "ratios.png") as image:
        assert image.width > 600 and image.height > 200


def test_an_unknown_case_is_named():
    line = run("bench", only="siglipp").line
    assert line.startswith("--only=siglipp: take some of siglip, hiera_global, ")


def test_without_torch_there_is_no_peer(monkeypatch):
    real = importlib.util.find_spec
    found = lambda name, *more: None if name == "torch" else real(name, *more)
    monkeypatch.setattr(importlib.util, "find_spec", found)
    assert "needs torch" in run("bench", only="siglip").line
