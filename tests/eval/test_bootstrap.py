"""Cluster bootstrap: against a slow loop, and by how often it holds the truth."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vica_jax.eval import bootstrap

RESAMPLES = 400


def draw_data(seed: int, questions: int, groups: int, videos: int):
    rng = np.random.default_rng(seed)
    scores = rng.integers(11, size=questions) / 10
    return (
        scores,
        rng.integers(groups, size=questions),
        bootstrap.number([f"v{v}" for v in rng.integers(videos, size=questions)]),
    )


def resample_slowly(scores, groups, videos, num_groups, resamples, seed):
    """The definition: draw videos, gather all their questions, take means."""
    num_videos = videos.max() + 1
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(resamples):
        drawn = rng.integers(num_videos, size=num_videos)
        gathered = [[] for _ in range(num_groups)]
        for video in drawn:
            for score, group, home in zip(scores, groups, videos, strict=True):
                if home == video:
                    gathered[group].append(score)
        rows.append([np.mean(x) if x else np.nan for x in gathered])
    return np.array(rows)


@given(
    seed=st.integers(0, 999),
    questions=st.integers(1, 40),
    groups=st.integers(1, 4),
    videos=st.integers(1, 8),
)
def test_equals_a_slow_loop(seed, questions, groups, videos):
    scores, group, video = draw_data(seed, questions, groups, videos)
    options = {"num_groups": groups, "resamples": 20, "seed": seed}
    means = bootstrap.resample_means(scores, group, video, **options)
    slow = resample_slowly(scores, group, video, groups, 20, seed)
    np.testing.assert_allclose(means, slow, rtol=0, atol=1e-12)


def test_chunks_draw_one_after_the_other(monkeypatch):
    scores, group, video = draw_data(0, 50, 2, 9)
    options = {"num_groups": 2, "resamples": 250}
    whole = bootstrap.resample_means(scores, group, video, **options)
    monkeypatch.setattr(bootstrap, "CHUNK", 100)
    parts = bootstrap.resample_means(scores, group, video, **options)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-12)


def test_counts_add_up_to_the_videos():
    counts = bootstrap.count_videos(7, 100, np.random.default_rng(0))
    assert counts.shape == (100, 7)
    assert (counts.sum(1) == 7).all() and len(np.unique(counts, axis=0)) > 50


def test_the_order_of_questions_does_not_matter():
    scores, group, video = draw_data(3, 300, 3, 20)
    intervals = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(scores))
        means = bootstrap.resample_means(
            scores[order], group[order], video[order], num_groups=3, resamples=RESAMPLES
        )
        intervals.append([bootstrap.percentile_interval(x) for x in means.T])
    assert intervals[0] == intervals[1] == intervals[2]


def test_what_a_resample_lacks_is_not_in_its_mean():
    means = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, 4.0], [np.nan] * 3])
    found = bootstrap.mean_of_groups(means, [[0, 1], [2]])
    np.testing.assert_array_equal(found, [2.0, 4.0, np.nan])
    assert bootstrap.percentile_interval(found) == (2.05, 3.95)
    assert bootstrap.percentile_interval(found[2:]) is None


def test_entries_are_averages_of_averages():
    means = np.random.default_rng(0).random((50, 5))
    found = bootstrap.mean_of_groups(means, [[0], [1, 2, 4], [3]])
    slow = [(r[0] + (r[1] + r[2] + r[4]) / 3 + r[3]) / 3 for r in means]
    np.testing.assert_allclose(found, slow, rtol=1e-14)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """95% intervals over many drawn benchmarks whose questions share video effects.

    Resampling questions as if they were independent holds it far less often.
    """
    truth, trials, videos, per_video = 0.5, 300, 60, 12
    rng = np.random.default_rng(0)
    held = {"videos": 0, "questions": 0}
    home = np.repeat(np.arange(videos), per_video)
    for _ in range(trials):
        easy = rng.beta(1, 1, size=videos)  # mean 1/2: the truth
        scores = (rng.random(home.size) < easy[home]).astype(np.float64)
        for name, clusters in (("videos", home), ("questions", np.arange(home.size))):
            means = bootstrap.resample_means(
                scores,
                np.zeros(home.size, np.int64),
                clusters,
                num_groups=1,
                resamples=RESAMPLES,
            )
            low, high = bootstrap.percentile_interval(means[:, 0])
            held[name] += low <= truth <= high
    assert 0.91 <= held["videos"] / trials <= 0.985
    assert held["questions"] / trials < 0.75


def test_equal_scores_have_no_width():
    scores, group, video = np.full(9, 0.3), np.zeros(9, np.int64), np.arange(9)
    means = bootstrap.resample_means(scores, group, video, num_groups=1, resamples=50)
    assert bootstrap.percentile_interval(means[:, 0]) == (0.3, 0.3)


@pytest.mark.parametrize("videos", [288, 5130])
def test_a_whole_benchmark_takes_seconds(videos):
    scores, group, video = draw_data(1, 5130, 10, videos)
    begun = time.perf_counter()
    means = bootstrap.resample_means(scores, group, video, num_groups=10)
    assert time.perf_counter() - begun < 10  # 0.05 s and 1 s where it was written
    assert means.shape == (bootstrap.RESAMPLES, 10) and not np.isnan(means).any()
