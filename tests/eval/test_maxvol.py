"""Rows of large volume: recorded cases, determinants by brute force, bad input."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vica_jax.errors import InputError
from vica_jax.eval.maxvol import (
    MaxvolError,
    maxinfo,
    numerical_rank,
    rect_maxvol,
    unit_columns,
)

RECORDED = Path(__file__).parents[1] / "goldens" / "vsibench.json"


def gaussian(seed: int, count: int, rank: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, rank))


def gram(A: np.ndarray, rows: list[int]) -> float:
    """The squared volume that the rows span."""
    return float(np.linalg.det(A[rows].T @ A[rows]))


# ------------------------------------------------------------------ recorded cases
def test_every_recorded_case():
    cases = json.loads(RECORDED.read_text())["maxinfo_rect_maxvol"]
    assert len(cases) == 4
    for case in cases:
        options = {"tol": case["tol"], "max_rows": case["maxK"]}
        start, rows = rect_maxvol(case["A"], **options)
        assert start.tolist() == case["start_square_maxvol_rows"]
        assert rows.tolist() == case["rect_maxvol_rows_in_order"]
        assert np.sort(rows).tolist() == case["selected_sorted"]
        _, of_u = rect_maxvol(unit_columns(case["A"]), **options)
        same = of_u.tolist() == rows.tolist()
        assert same == case["same_rows_for_U_instead_of_USigma"]


# --------------------------------------------------------------------- brute force
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(2, 12),
    rank=st.integers(1, 4),
    tol=st.sampled_from([0.0, 0.23, 0.3, 1.0, 1.5]),
)
def test_every_added_row_has_the_largest_volume(
    seed: int, count: int, rank: int, tol: float
):
    assume(count > rank)
    A = gaussian(seed, count, rank)
    start, rows = rect_maxvol(A, tol=tol)
    assert rows[: len(start)].tolist() == start.tolist()
    taken = start.tolist()
    for row in rows[rank:].tolist():
        volumes = {
            other: gram(A, [*taken, other]) for other in {*range(count)} - {*taken}
        }
        assert volumes[row] == pytest.approx(max(volumes.values()), rel=1e-9)
        # det grows by 1 + the squared norm of the row's coefficients.
        assert volumes[row] / gram(A, taken) - 1 > tol**2 - 1e-9
        taken.append(row)
    for other in {*range(count)} - {*taken}:
        assert gram(A, [*taken, other]) / gram(A, taken) - 1 <= tol**2 + 1e-9


@given(seed=st.integers(0, 2**32 - 1), rank=st.integers(1, 3))
def test_no_swap_of_a_starting_row_gains_more_than_a_twentieth(seed: int, rank: int):
    A = gaussian(seed, 8, rank)
    start, _ = rect_maxvol(A)
    volume = abs(np.linalg.det(A[start]))
    for place in range(rank):
        for row in range(8):
            swapped = start.copy()
            swapped[place] = row
            assert abs(np.linalg.det(A[swapped])) <= 1.05 * volume * (1 + 1e-9)
    best = max(
        abs(np.linalg.det(A[list(rows)])) for rows in combinations(range(8), rank)
    )
    # No entry of C passes 1.05, so by Hadamard no subset is larger than this.
    assert best <= (1.05 * rank**0.5) ** rank * volume * (1 + 1e-9)


def test_the_start_is_pivots_then_swaps():
    """By hand: pivots 0, 1; C of row 2 is (0.9, 1.9): it replaces the second row."""
    A = np.array([[10.0, 0.0], [0.0, 1.0], [9.0, 1.9], [1.0, 0.5]])
    assert rect_maxvol(A, max_rows=2)[0].tolist() == [0, 2]


def test_the_largest_coefficient_is_found_column_by_column():
    """Pivots 0, 1, 2; C of row 3 is (1.5, 2, 1), of row 4 (2, 1.5, 1), all exact.

    Either swap leaves no coefficient above 1: the scan's order decides.
    """
    A = [[1, 0, 0], [-0.75, 1, 0], [0, -1, 1], [0, 1, 1], [0.875, 0.5, 1]]
    assert rect_maxvol(A, max_rows=3)[0].tolist() == [4, 1, 2]


# ------------------------------------------------------------------------- options
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 30),
    rank=st.integers(1, 8),
    tol=st.sampled_from([0.0, 0.3, 1.0]),
    most=st.none() | st.integers(0, 40),
    least=st.none() | st.integers(0, 40),
    values=st.sampled_from(["gaussian", "integers", "repeated"]),
)
def test_rows_are_unique_and_as_many_as_allowed(
    seed: int,
    count: int,
    rank: int,
    tol: float,
    most: int | None,
    least: int | None,
    values: str,
):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(count, rank))
    if values == "integers":  # many ties, zero rows, deficient ranks
        A = rng.integers(-1, 2, size=(count, rank)).astype(float)
    elif values == "repeated":
        A = A[rng.integers(0, max(1, count // 3), count)]
    assume(A.any())
    start, rows = rect_maxvol(A, tol=tol, max_rows=most, min_rows=least)
    assert len({*rows.tolist()}) == len(rows)
    assert {*rows.tolist()} <= {*range(count)}
    assert rows[: len(start)].tolist() == start.tolist()
    if count <= rank:
        assert rows.tolist() == start.tolist() == [*range(count)]
        return
    full = numerical_rank(A)
    assert len(start) == full == numerical_rank(A[start])
    ceiling = count if most is None else min(max(most, full), count)
    floor = full if least is None else min(max(least, full), ceiling)
    assert floor <= len(rows) <= ceiling


@given(seed=st.integers(0, 2**32 - 1), rank=st.integers(1, 5))
def test_order_of_rows_and_scale_of_columns_do_not_matter(seed: int, rank: int):
    rng = np.random.default_rng(seed)
    A, order = rng.normal(size=(20, rank)), rng.permutation(20)
    _, rows = rect_maxvol(A, tol=0.3, max_rows=12)
    _, permuted = rect_maxvol(A[order], tol=0.3, max_rows=12)
    assert order[permuted].tolist() == rows.tolist()
    scaled = A * rng.uniform(0.01, 100, rank) * rng.choice([-1, 1], rank)
    assert rect_maxvol(scaled, tol=0.3, max_rows=12)[1].tolist() == rows.tolist()


@given(seed=st.integers(0, 2**32 - 1), rank=st.integers(1, 6))
def test_of_equal_rows_the_lowest_is_added_first(seed: int, rank: int):
    rng = np.random.default_rng(seed)
    which = rng.integers(0, 12, 40)
    A = rng.normal(size=(12, rank))[which]
    assume(numerical_rank(A) == rank)
    start, rows = rect_maxvol(A, tol=0)
    for one in range(12):
        added = [row for row in rows[len(start) :].tolist() if which[row] == one]
        assert added == sorted(added)
        left = {*np.flatnonzero(which == one).tolist()} - {*start.tolist()}
        assert added == sorted(left)[: len(added)]


def test_rows_of_deficient_rank_are_reduced_to_it():
    A = gaussian(0, 20, 2) @ gaussian(1, 2, 6)
    assert numerical_rank(A) == 2
    start, rows = rect_maxvol(A, tol=0.3, max_rows=5)
    assert len(start) == 2
    assert len(rows) == 5
    assert numerical_rank(A[start]) == 2
    # Noise well above rounding counts as rank, and the cut stays where it was asked.
    noisy = A + 1e-9 * gaussian(2, 20, 6)
    start, rows = rect_maxvol(noisy, tol=0.3, max_rows=5)
    assert len(start) == len(rows) == 6


def test_min_rows_beyond_what_adds_volume_takes_the_lowest_left():
    A = np.zeros((6, 2))
    A[2], A[4] = (1, 0), (0, 1)
    start, rows = rect_maxvol(A, tol=1, min_rows=5)
    assert sorted(start.tolist()) == [2, 4]
    assert rows[2:].tolist() == [0, 1, 3]


def test_a_larger_tol_keeps_fewer_rows():
    A = gaussian(3, 60, 5)
    counts = [len(rect_maxvol(A, tol=tol)[1]) for tol in (0, 0.23, 0.3, 1, 9)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 60
    assert counts[1] > counts[3] > counts[4] == 5


# ------------------------------------------------------------------------- maxinfo
def test_maxinfo_is_rect_maxvol_on_the_truncated_decomposition():
    Q = gaussian(4, 50, 32).astype(np.float32)
    U, sigma, _ = np.linalg.svd(Q.astype(np.float64), full_matrices=False)
    for rank, tol, most in ((8, 0.3, 16), (4, 1.0, 49), (8, 0.23, 20)):
        _, rows = rect_maxvol(U[:, :rank] * sigma[:rank], tol=tol, max_rows=most)
        places = maxinfo(Q, rank=rank, tol=tol, max_frames=most)
        assert places.tolist() == sorted(rows.tolist())


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 40),
    width=st.integers(1, 20),
    scenes=st.integers(1, 40),
    most=st.integers(1, 40),
)
def test_maxinfo_gives_sorted_places_at_most_so_many(
    seed: int, count: int, width: int, scenes: int, most: int
):
    rng = np.random.default_rng(seed)
    Q = rng.normal(size=(scenes, width))[rng.integers(0, scenes, count)]
    places = maxinfo(Q, max_frames=most)
    assert places.tolist() == sorted({*places.tolist()})
    assert 1 <= len(places) <= min(most, count)
    assert places[-1] < count
    assert len(places) >= min(most, 8, numerical_rank(Q))
    if count <= most:
        assert places.tolist() == [*range(count)]


def test_as_many_frames_as_wanted_are_not_selected_from():
    Q = gaussian(6, 20, 32)
    assert maxinfo(Q, tol=9, max_frames=20).tolist() == [*range(20)]
    assert len(maxinfo(Q, tol=9, max_frames=19)) == 8


def test_maxinfo_sees_every_scene():
    """Five scenes that repeat with little noise: one frame of each spans the most."""
    which = np.repeat(np.arange(5), 12)
    Q = 5 * np.eye(5, 64)[which] + 0.01 * gaussian(5, 60, 64)
    places = maxinfo(Q, rank=5, tol=1.1, max_frames=16)
    assert which[places].tolist() == [0, 1, 2, 3, 4]


# ----------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("A", "message"),
    [
        ([1.0, 2.0], r"of at least one row and column, got shape \(2,\)"),
        ([], r"got shape \(0,\)"),
        (np.zeros((3, 0)), r"got shape \(3, 0\)"),
        ([[1.0, np.nan], [1.0, 2.0], [np.inf, 0.0]], "A: 2 of 3 rows are not finite"),
        ([["a", "b"]], "must be a matrix of real numbers"),
        ([[1.0], [1.0, 2.0]], "must be a matrix of real numbers"),
        (np.ones((2, 2)) * 1j, "must be a matrix of real numbers"),
        (np.zeros((4, 2)), "a matrix of zeros"),
    ],
)
def test_no_matrix(A: object, message: str):
    with pytest.raises(MaxvolError, match=message) as error:
        rect_maxvol(A)
    assert isinstance(error.value, InputError)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tol", [-0.1, float("nan")])
def test_no_tolerance(tol: float):
    with pytest.raises(MaxvolError, match="tol must be a number not below 0"):
        rect_maxvol(np.eye(3)[:, :2], tol=tol)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_frames": 0}, "max_frames must be at least 1, got 0"),
        ({"max_frames": 2, "rank": 0}, "rank must be at least 1, got 0"),
        ({"max_frames": 2}, "the embeddings are zeros only"),
    ],
)
def test_no_maxinfo(options: dict[str, int], message: str):
    with pytest.raises(MaxvolError, match=message):
        maxinfo(np.zeros((4, 3)), **options)
