"""The pool that decodes and resizes: order, errors, how many at a time."""

import os
import threading

import pytest

from vica_jax.data.threads import (
    MOST,
    map_threads,
    num_cores,
    num_readers,
    num_threads,
    use_threads,
)


@pytest.fixture(autouse=True)
def as_before():
    before = num_threads()
    yield
    use_threads(before)


def test_as_many_threads_as_cores():
    assert num_threads() == min(num_cores(), MOST) >= 1
    with pytest.raises(ValueError, match="threads must be >= 1, got 0"):
        use_threads(0)


@pytest.mark.parametrize("threads", [1, 3])
def test_results_keep_their_order(threads: int):
    use_threads(threads)
    assert map_threads(lambda i: i * i, range(20)) == [i * i for i in range(20)]
    assert map_threads(str, []) == []


def test_parts_are_worked_on_side_by_side():
    use_threads(3)
    meet = threading.Barrier(3, timeout=20)  # only three at once get past it
    assert sorted(map_threads(lambda i: meet.wait(), range(3))) == [0, 1, 2]


def test_one_thread_is_the_caller():
    use_threads(1)
    me = threading.current_thread()
    assert map_threads(lambda i: threading.current_thread(), range(3)) == [me] * 3


def test_an_error_ends_the_rest_and_is_raised_last():
    use_threads(2)
    go, ended = threading.Event(), []

    def do(i: int) -> None:
        if i == 1:
            go.set()
            raise KeyError("one")
        assert go.wait(20)
        ended.append(i)

    with pytest.raises(KeyError, match="one"):
        map_threads(do, range(9))
    assert ended == [0]


def test_the_caller_gets_on_while_the_pool_is_taken():
    use_threads(2)
    go, waited = threading.Event(), []

    def slow_disk(i: int) -> None:
        waited.append(go.wait(20))

    slow = [
        threading.Thread(target=map_threads, args=(slow_disk, range(2)))
        for _ in range(3)
    ]
    for thread in slow:
        thread.start()
    assert map_threads(lambda i: i + 1, range(5)) == [1, 2, 3, 4, 5]
    assert not go.is_set()
    nested = map_threads(lambda i: map_threads(lambda j: (i, j), range(2)), range(2))
    assert nested == [[(0, 0), (0, 1)], [(1, 0), (1, 1)]]
    go.set()
    for thread in slow:
        thread.join()
    assert waited == [True] * 6  # none gave up before it was told to go


def test_readers_follow_the_cores(monkeypatch):
    counts = []
    for cores in (1, 2, 6, 16, 64):
        monkeypatch.setattr("vica_jax.data.threads.num_cores", lambda n=cores: n)
        counts.append(num_readers())
    assert counts == [2, 2, 3, 8, 8]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning")
def test_a_forked_process_starts_threads_of_its_own():
    use_threads(2)
    map_threads(abs, range(4))
    child = os.fork()
    if not child:
        os._exit(map_threads(abs, range(-4, 0)) != [4, 3, 2, 1])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
