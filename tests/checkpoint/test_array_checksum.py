"""The checksum: one value on devices, on disk and in runs of rows; changes are seen."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vica_jax.checkpoint import checksum as module
from vica_jax.checkpoint.checksum import checksum, device_checksums

DTYPES = ["float32", "bfloat16", "float16", "int32", "uint32", "int8", "bool"]


def values(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Arbitrary bits: NaNs, infinities and subnormals among the floats."""
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(seed)
    if dtype == np.bool_:
        return np.asarray(rng.random(shape) < 0.5)
    words = rng.integers(0, 256, (*shape, dtype.itemsize), np.uint8)
    return words.view(dtype)[..., 0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (7,), (3, 4, 5)])
def test_devices_and_numpy_agree(monkeypatch, shape, dtype):
    array = values(shape, dtype)
    leaf = jnp.asarray(array)
    assert np.asarray(leaf).tobytes() == array.tobytes()
    near = device_checksums({"x": leaf})
    monkeypatch.setattr(module, "_is_near", lambda leaf: False)
    assert device_checksums({"x": leaf}) == near == {"x": checksum(array)}


def test_64_bits_count_as_two_words():
    array = np.arange(5) * 2**33 + 1
    assert checksum(array) == checksum(array.view(np.uint32))
    assert checksum(array[2:], 2) == checksum(array.view(np.uint32)[4:], 4)


@given(st.data())
def test_runs_of_rows_add_up(data: st.DataObject):
    array = values(
        (data.draw(st.integers(2, 30)), 3), data.draw(st.sampled_from(DTYPES))
    )
    cut = data.draw(st.integers(1, len(array) - 1))
    first, rest = checksum(array[:cut]), checksum(array[cut:], 3 * cut)
    assert (first + rest) % 2**32 == checksum(array)


def test_runs_longer_than_a_block_add_up():
    array = values((5, module._BLOCK // 2 + 3), "bfloat16")
    runs = [checksum(array[i], i * array.shape[1]) for i in range(5)]
    assert sum(runs) % 2**32 == checksum(array)


@given(st.data())
def test_every_changed_bit_is_seen(data: st.DataObject):
    dtype = data.draw(st.sampled_from(DTYPES[:-1]))
    array = values(
        (data.draw(st.integers(1, 40)),), dtype, data.draw(st.integers(0, 9))
    )
    changed = array.copy()
    words = changed.view(np.uint8)
    words[data.draw(st.integers(0, len(words) - 1))] ^= 1 << data.draw(
        st.integers(0, 7)
    )
    assert checksum(changed) != checksum(array)


def test_moved_lost_and_swapped_values_are_seen():
    array = values((50,), "float32")
    sums = {checksum(np.roll(array, k)) for k in range(50)}
    swapped = array.copy()
    swapped[[3, 30]] = array[[30, 3]]
    lost = array.copy()
    lost[10:20] = 0
    sums |= {checksum(swapped), checksum(lost), checksum(array[:-1])}
    assert len(sums) == 53
    zeros = [checksum(np.zeros(n, np.float32)) for n in range(1, 50)]
    assert len(set(zeros)) == 49
