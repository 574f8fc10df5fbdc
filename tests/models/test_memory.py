"""Full-size programs by abstract shapes: nothing of size T x T or T x V exists."""

import jax
import jax.numpy as jnp
import pytest

from vica_jax.decode.generate import Sampling, encode, make_generate, prefill
from vica_jax.models.variants import VARIANTS
from vica_jax.models.vica import Vica, abstract_vica

pytestmark = pytest.mark.slow

T = 22_528  # 22,144 visual tokens and the text around them, in their bucket
GB = 1e9
SAMPLING = Sampling(eos_ids=(151645,), pad_id=151643, vocab_limit=151647)


@pytest.fixture(scope="module")
def full():
    cfg = VARIANTS["vica2_7b"]
    shapes, _ = abstract_vica(cfg)
    array = jax.ShapeDtypeStruct
    text = {
        "tokens": array((1, T), jnp.int32),
        "visual_index": array((1, T), jnp.int32),
        "lengths": array((1,), jnp.int32),
    }
    media = {
        "frames": array((1, 64, 384, 384, 3), jnp.uint8),
        "hiera_frames": array((1, 32, 512, 640, 3), jnp.uint8),
        "hiera_frame_sizes": array((1, 2), jnp.int32),
    }
    key = array((), jax.random.key(0).dtype)
    return Vica(cfg), shapes, text, media, key


def temporaries(lowered) -> float:
    return lowered.compile().memory_analysis().temp_size_in_bytes / GB


def test_prefill(full):
    model, shapes, text, _, _ = full
    bank = jax.ShapeDtypeStruct((1, 1 + 12_544 + 8_192, 3584), jnp.float32)
    lowered = prefill.lower(model, T + 1024, shapes, text, bank)
    # One T x V float32 array is 13.7 GB, one T x T score array 2 GB a head.
    assert temporaries(lowered) < 2


def test_encode(full):
    model, shapes, _, media, _ = full
    assert temporaries(encode.lower(model, shapes, media)) < 5


def test_the_whole_answer(full):
    model, shapes, text, media, key = full
    generate = make_generate(model, SAMPLING, 64)
    assert temporaries(generate.lower(shapes, {**text, **media}, key)) < 6
