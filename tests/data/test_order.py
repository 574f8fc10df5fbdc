"""The order of an epoch: a permutation, grouped by the reference's rule."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vica_jax.data.order import OrderError, draw, epoch_order, split_validation

WORDS = st.integers(1, 30)
SIGNED = st.lists(WORDS | WORDS.map(lambda n: -n), max_size=120)
SEED = st.integers(0, 2**63)


def grouped_by_the_book(lengths, size, permute):
    """The rule item by item; ``permute(n)`` shuffles in the order of its calls."""

    def by_length(indices, keys):
        order = list(permute(len(indices)))
        runs = [order[i : i + size] for i in range(0, len(order), size)]
        runs = [sorted(run, key=lambda i: keys[i], reverse=True) for run in runs]
        return [indices[i] for run in runs for i in run]

    seen = [i for i, n in enumerate(lengths) if n > 0]
    text = [i for i, n in enumerate(lengths) if n < 0]
    if not seen or not text:
        return by_length(list(range(len(lengths))), lengths)
    batches, rest = [], []
    for part in (seen, text):
        order = by_length(part, [abs(lengths[i]) for i in part])
        runs = [order[i : i + size] for i in range(0, len(order), size)]
        batches += runs[:-1]
        rest += runs[-1]
    batches = [batches[i] for i in permute(len(batches))]
    return [i for batch in [*batches, sorted(rest)] for i in batch]


@given(SIGNED, st.integers(1, 17), SEED, st.integers(0, 9), st.booleans())
def test_every_epoch_is_a_permutation(lengths, size, seed, epoch, group):
    order = epoch_order(lengths, size, seed=seed, epoch=epoch, group=group)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(len(lengths)))
    again = epoch_order(lengths, size, seed=seed, epoch=epoch, group=group)
    assert np.array_equal(order, again)


@given(SIGNED, st.integers(1, 17), SEED, st.integers(0, 9))
def test_grouping_follows_the_rule(lengths, size, seed, epoch):
    random = np.random.PCG64([0, seed, epoch])

    def permute(n):
        return np.argsort([random.random_raw() for _ in range(n)], kind="stable")

    order = epoch_order(lengths, size, seed=seed, epoch=epoch)
    assert order.tolist() == grouped_by_the_book(lengths, size, permute)


@given(SIGNED, st.integers(1, 17), SEED)
def test_batches_hold_one_modality_and_fall_in_length(lengths, size, seed):
    words = np.array(lengths, np.int64)
    seen, text = int((words > 0).sum()), int((words < 0).sum())
    if not seen or not text:
        return
    order = epoch_order(words, size, seed=seed, epoch=0)
    whole = sum((n - 1) // size for n in (seen, text))
    for batch in order[: whole * size].reshape(-1, size):
        assert len(set(np.sign(words[batch]))) == 1
        assert list(np.abs(words[batch])) == sorted(np.abs(words[batch]))[::-1]
    rest = order[whole * size :]
    assert len(rest) <= 2 * size
    assert list(rest) == sorted(rest)


def test_a_known_epoch_stays_what_it_is():
    """Raw generator words are the same in every numpy: so is a resumed run's data."""
    lengths = [5, -3, 8, 2, 9, -4, 1, 7, -6, 3]
    order = epoch_order(lengths, 2, seed=42, epoch=1)
    assert order.tolist() == [8, 5, 9, 3, 4, 7, 2, 0, 1, 6]


def test_seeds_and_epochs_differ():
    lengths = np.arange(1, 200)
    orders = [
        epoch_order(lengths, 8, seed=seed, epoch=epoch).tolist()
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_the_full_data_set_is_ordered_quickly():
    n = 322_003
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 900, n) * np.where(rng.random(n) < 0.1, -1, 1)
    start = time.perf_counter()
    order = epoch_order(lengths, 32, seed=3, epoch=0)
    assert time.perf_counter() - start < 2
    assert np.array_equal(np.sort(order), np.arange(n))


@pytest.mark.parametrize(
    ("lengths", "size", "seed", "epoch", "words"),
    [
        ([1, 2], 0, 0, 0, "global_batch_size must be at least 1, got 0"),
        ([1, 0, 0], 2, 0, 0, r"2 record\(s\) of length 0"),
        ([1, 2], 2, -1, 0, "must not be negative"),
        ([1, 2], 2, 0, -1, "must not be negative"),
    ],
)
def test_orders_refused(lengths, size, seed, epoch, words):
    with pytest.raises(OrderError, match=words):
        epoch_order(lengths, size, seed=seed, epoch=epoch)


# ------------------------------------------------------------------- validation
@given(st.integers(2, 400), st.floats(0, 0.5), SEED)
def test_split_holds_out_a_share_once(n, share, seed):
    train, held = split_validation(n, share, seed=seed)
    assert sorted([*train, *held]) == list(range(n))
    assert list(train) == sorted(train) and list(held) == sorted(held)
    assert len(held) == (max(round(n * share), 1) if share else 0)
    assert np.array_equal(held, split_validation(n, share, seed=seed)[1])


def test_split_is_drawn_over_all_records():
    _, held = split_validation(1000, 0.1, seed=0)
    _, other = split_validation(1000, 0.1, seed=1)
    assert held.min() < 100 and held.max() > 900
    assert not np.array_equal(held, other)


@pytest.mark.parametrize(("n", "share"), [(1, 0.1), (10, 1.0), (10, 0.97), (0, 0.5)])
def test_split_leaves_something_to_train_on(n, share):
    with pytest.raises(OrderError, match="leaves none to train on"):
        split_validation(n, share, seed=0)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_shares_refused(share):
    with pytest.raises(OrderError, match=r"must lie in 0\.\.1"):
        split_validation(10, share, seed=0)


# ----------------------------------------------------------------------- a draw
@given(st.integers(0, 200), st.integers(0, 250), SEED)
def test_draw_takes_distinct_indices_in_order(found, taken, seed):
    drawn = draw(found, taken, seed=seed, name="a.json")
    assert len(drawn) == min(found, taken)
    assert list(drawn) == sorted(set(drawn))
    assert all(0 <= i < found for i in drawn)


def test_draw_depends_on_seed_and_name():
    kinds = [(0, "a.json"), (1, "a.json"), (0, "b.json")]
    drawn = [tuple(draw(100, 10, seed=s, name=n)) for s, n in kinds]
    assert len(set(drawn)) == 3
