"""The order of an epoch and the split for validation: index arrays, nothing else.

The order is a pure function of the records' lengths, the size of a global batch, the
seed and the epoch. It knows neither processes nor workers, so position N of an epoch is
the same record on one process or on sixteen.

Source: the reference's ``get_modality_length_grouped_indices``
(``--group_by_modality_length``), with a global batch as its mega-batch. Deviations: our
own generator in place of torch's; a mega-batch is not dealt out to devices in chunks of
even length (that would depend on their number), it stands longest first.

Permutations are argsorts of raw generator words: numpy keeps those the same in every
release, its ``Generator.permutation`` may change.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from vica_jax.errors import InputError

# First word of a seed: what the numbers are for, so that no two uses share a stream.
_EPOCH, _VALIDATION, _SAMPLE = range(3)


class OrderError(InputError):
    """A seed, batch size, share or length that no order can be made of."""


def epoch_order(
    lengths: np.ndarray | Sequence[int],
    global_batch_size: int,
    *,
    seed: int,
    epoch: int,
    group: bool = True,
) -> np.ndarray:
    """Which record stands at each position of an epoch: a permutation ``int64[n]``.

    ``lengths`` are words per record, negative for text alone (``Mixture.lengths``).
    With ``group``:

    * one modality: shuffled, cut into global batches, each sorted longest first (the
      signed length, as in the reference: text alone stands shortest first);
    * both: each modality so on its own; then all batches but the last of each modality
      are shuffled, and the two last ones (full or not) end the epoch together, sorted
      by index. Only there may a global batch hold both modalities.

    Without ``group`` it is a plain shuffle.

    Raises:
      OrderError: a batch size below 1, a negative seed or epoch, or (with ``group``) a
        length of 0, which has no modality.
    """
    if global_batch_size < 1:
        raise OrderError(
            f"global_batch_size must be at least 1, got {global_batch_size}"
        )
    words = np.asarray(lengths, np.int64)
    random = _generator(_EPOCH, seed, epoch)
    if not group:
        return _permutation(random, len(words))
    if zeros := int(np.sum(words == 0)):
        raise OrderError(
            f"{zeros} record(s) of length 0: grouping needs at least one word, "
            "negative for text alone"
        )
    parts = [np.flatnonzero(words > 0), np.flatnonzero(words < 0)]
    if not all(map(len, parts)):
        return _grouped(random, words, global_batch_size)
    batches: list[np.ndarray] = []
    rest: list[np.ndarray] = []
    for part in parts:
        order = part[_grouped(random, np.abs(words[part]), global_batch_size)]
        last = (len(order) - 1) // global_batch_size * global_batch_size
        batches += list(order[:last].reshape(-1, global_batch_size))
        rest.append(order[last:])
    shuffled = [batches[i] for i in _permutation(random, len(batches))]
    return np.concatenate([*shuffled, np.sort(np.concatenate(rest))])


def split_validation(
    n: int, share: float, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices ``int64`` to train on and to hold out, both growing.

    ``share`` of the ``n`` records is held out, at random, and at least one if it is
    not 0. The same ``n``, share and seed always give the same split.

    Raises:
      OrderError: a share outside 0..1, or one that leaves nothing to train on.
    """
    if not 0 <= share <= 1:
        raise OrderError(f"validation_share must lie in 0..1, got {share}")
    held = max(round(n * share), 1) if share else 0
    if held and held >= n:
        raise OrderError(
            f"validation_share {share} holds out {held} of {n} record(s) and leaves "
            "none to train on: take a smaller share or a mixture of its own"
        )
    order = _permutation(_generator(_VALIDATION, seed), n)
    return np.sort(order[held:]), np.sort(order[:held])


def draw(found: int, taken: int, *, seed: int, name: str) -> np.ndarray:
    """``taken`` of ``found`` indices at random, growing ``int64``; all if too few.

    They depend on the seed and on ``name`` (a source's path), on nothing else.
    """
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8)
    random = _generator(_SAMPLE, seed, int.from_bytes(digest.digest(), "big"))
    return np.sort(_permutation(random, found)[:taken])


def _generator(use: int, seed: int, *more: int) -> np.random.PCG64:
    words = [seed, *more]
    if min(words) < 0:
        raise OrderError(f"seed and epoch must not be negative, got {words}")
    return np.random.PCG64([use, *words])


def _permutation(random: np.random.PCG64, n: int) -> np.ndarray:
    # An empty request would leave the generator's state as it is, and so would none.
    raw = random.random_raw(n) if n else np.empty(0, np.uint64)
    return np.argsort(raw, kind="stable").astype(np.int64)


def _grouped(random: np.random.PCG64, words: np.ndarray, size: int) -> np.ndarray:
    """Shuffled, each run of ``size`` sorted longest first, equals as drawn."""
    order = _permutation(random, len(words))
    batch = np.arange(len(words)) // size
    return order[np.lexsort((-words[order], batch))]
