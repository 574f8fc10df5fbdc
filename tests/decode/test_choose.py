"""The order and arithmetic of choosing a token, against HF's rules written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vica_jax.decode.generate import Sampling, choose
from vica_jax.errors import InputError

V = 12


def pick(logits, generated=(), count=0, seed=0, **fields):
    sampling = Sampling(
        eos_ids=fields.pop("eos_ids", (1,)),
        pad_id=0,
        vocab_limit=fields.pop("vocab_limit", V),
        **fields,
    )
    logits = jnp.asarray(logits, jnp.float32)
    seen = np.zeros(logits.shape, bool)
    seen[:, list(generated)] = True
    keys = jax.random.split(jax.random.key(seed), len(logits))
    return np.asarray(
        choose(logits, jnp.asarray(seen), jnp.asarray(count), keys, sampling.choice())
    )


def test_greedy_takes_the_first_of_equals():
    assert pick([[0.0] * 3 + [2.0, 2.0] + [0.0] * 7]).tolist() == [3]


def test_ids_past_the_tokenizer_are_never_produced():
    logits = np.zeros((1, V))
    logits[0, 11], logits[0, 4] = 9, 1
    assert pick(logits).tolist() == [11]
    assert pick(logits, vocab_limit=11).tolist() == [4]


@given(st.lists(st.floats(-5, 5, width=32), min_size=V, max_size=V), st.data())
def test_repetition_penalty_as_hf(logits, data):
    generated = data.draw(st.sets(st.integers(0, V - 1)))
    scores = np.array(logits, np.float32)
    for i in generated:
        scores[i] = scores[i] * np.float32(1.3) if scores[i] < 0 else scores[i] / 1.3
    (ours,) = pick([logits], generated, repetition_penalty=1.3)
    assert scores[ours] >= scores.max() - 1e-6


def test_min_new_tokens_holds_eos_back():
    logits = np.zeros((1, V))
    logits[0, 1], logits[0, 7] = 9, 1
    assert pick(logits, count=1, min_new_tokens=2).tolist() == [7]
    assert pick(logits, count=2, min_new_tokens=2).tolist() == [1]


def test_suppressed_ids():
    logits = np.zeros((1, V))
    logits[0, 5], logits[0, 6] = 9, 8
    assert pick(logits, suppress_ids=(5,)).tolist() == [6]


def samples(logits, n=400, **fields):
    return pick(np.tile(np.asarray(logits), (n, 1)), temperature=1.0, **fields)


def test_top_k_keeps_k():
    logits = np.arange(V, dtype=float) / 4
    assert set(samples(logits, top_k=3)) == {V - 1, V - 2, V - 3}


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    logits = np.full(V, -30.0)
    logits[[2, 3, 4]] = np.log([0.5, 0.3, 0.2])
    assert set(samples(logits, top_p=0.6)) == {2, 3}
    assert set(samples(logits, top_p=0.4)) == {2}


def test_frequencies_follow_the_distribution():
    logits = np.full(V, -30.0)
    logits[[2, 9]] = np.log([0.25, 0.75])
    share = (samples(logits, n=2000) == 9).mean()
    assert 0.70 < share < 0.80


def test_a_low_temperature_is_greedy():
    logits = np.arange(V, dtype=float)
    drawn = pick(np.tile(logits, (50, 1)), temperature=0.01)
    assert set(drawn) == {V - 1}


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"repetition_penalty": float("nan")},
        {"top_k": -2},
        {"top_p": 0.0},
        {"top_p": 1.5},
    ],
)
def test_impossible_sampling_is_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        pick(np.zeros((1, V)), **bad)
