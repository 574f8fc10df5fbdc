"""Full-size programs by abstract shapes: nothing of size T x T or T x V exists.

At full width and length, float32. Of the language model two layers are compiled,
because a further one leaves its keys and values alone (asserted below, slow).
"""

from dataclasses import replace
from functools import cache

import jax
import pytest

from vica_jax.decode.generate import Sampling, encode, make_generate
from vica_jax.decode.loop import cache_room
from vica_jax.decode.programs import (
    answer_programs,
    ask_programs,
    open_programs,
    video_batch,
)
from vica_jax.models.variants import HIERA_BASE_PLUS, VARIANTS
from vica_jax.models.vica import Vica, abstract_vica
from vica_jax.sharding import local_bytes

pytestmark = pytest.mark.usefixtures("abstract_arrays")

GB = 1e9
T = 22_528  # 22,144 visual tokens and the text around them, in their bucket
CACHE = T + cache_room(1024)
ROWS, OWN, SLOTS = 24, 128, 128 + cache_room(1024)  # 18 questions, in their bucket
PUBLISHED = VARIANTS["vica2_7b"]
POSITION = 2 * 4 * 128 * 4  # bytes of a layer's keys and values at one position
BATCH = video_batch(PUBLISHED.layout, frames=64, frame_hw=(480, 640), text_tokens=200)
SAMPLING = Sampling(eos_ids=(151645,), pad_id=151643, vocab_limit=151647)


def with_depth(depth: int):
    """Encoders as wide as the published ones and shallow: lowered, not looked at."""
    hiera = replace(HIERA_BASE_PLUS, depths=(1, 1, 2, 1), global_blocks=(3,))
    cfg = replace(
        PUBLISHED,
        siglip=replace(PUBLISHED.siglip, depth=1),
        hiera=hiera,
        llm=replace(PUBLISHED.llm, depth=depth),
    )
    return Vica(cfg), abstract_vica(cfg)[0]


class Compiled(dict):
    """Memory by program. The encoders are compiled where they are the question."""

    def __init__(self, *skipped: str):
        self.skipped = skipped

    def __call__(self, name, lowered):
        if name not in self.skipped:
            self[name] = lowered.compile().memory_analysis()


@cache
def answering(depth: int) -> Compiled:
    """Of one answer with room for 1,024 tokens."""
    found = Compiled("encode", "begin")
    answer_programs(*with_depth(depth), BATCH, SAMPLING, found, slots=CACHE)
    return found


@cache
def asking(depth: int) -> Compiled:
    """Of 18 questions with room for 1,024 tokens each."""
    found = Compiled("encode", "begin")
    model, params = with_depth(depth)
    _, prefix = open_programs(model, params, BATCH, found)
    sizes = {"rows": ROWS, "length": OWN, "slots": SLOTS}
    ask_programs(model, params, prefix, SAMPLING, found, **sizes)
    return found


def whole(memory) -> int:
    """Everything that exists while a program runs."""
    parts = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return parts - memory.alias_size_in_bytes + memory.temp_size_in_bytes


def test_the_length_is_the_published_one():
    assert BATCH["tokens"].shape == (1, T)


def test_prefill_needs_weights_and_cache_and_little_more():
    # One T x V float32 array is 13.7 GB, one T x T score array 2 GB a head.
    weights = local_bytes(with_depth(2)[1])
    assert whole(answering(2)["prefill"]) < weights + 2 * CACHE * POSITION + 3 * GB
    assert whole(asking(2)["prefill"]) < weights + 2 * T * POSITION + 3 * GB
    assert answering(2)["prefill"].temp_size_in_bytes < 1.5 * GB


def test_encoding_64_and_32_frames():
    found = Compiled()
    media = {name: BATCH[name] for name in BATCH if "frame" in name}
    found("encode", encode.lower(Vica(PUBLISHED), abstract_vica(PUBLISHED)[0], media))
    bank = (1 + 12_544 + 8_192) * 3584 * 4
    assert found["encode"].output_size_in_bytes == bank
    # 4.5 GB where Hiera's chunks are as large as SigLIP's.
    assert found["encode"].temp_size_in_bytes < 2.6 * GB


def test_asking_18_questions():
    found = asking(2)
    # The prefix is 22,528 x 24 slots when copied for each row: 4.4 GB in two layers.
    assert found["questions"].temp_size_in_bytes < 1 * GB
    assert found["decode"].temp_size_in_bytes < 0.3 * GB


@pytest.mark.parametrize(
    ("memory", "slots"), [(answering, CACHE), (asking, ROWS * SLOTS)]
)
def test_decoding_writes_into_the_cache_it_is_given(memory, slots):
    """No second cache: outputs take the place of the donated inputs."""
    decode = memory(2)["decode"]
    caches = 2 * slots * POSITION
    assert decode.alias_size_in_bytes >= caches
    new = decode.output_size_in_bytes - decode.alias_size_in_bytes
    assert new < 0.1 * caches


def test_decoding_copies_no_cache():
    # A layer's keys with heads first would be 48 MB.
    assert answering(2)["decode"].temp_size_in_bytes < 0.02 * GB


@pytest.mark.slow
def test_depth_costs_keys_and_values_alone():
    for memory in (answering, asking):
        for name in ("prefill", "decode"):
            two, all_ = (memory(n)[name].temp_size_in_bytes for n in (2, 28))
            assert all_ < two + 0.02 * GB, name
    # The questions' keys are padded to their slots at the very end, all at once.
    two, all_ = (asking(n)["questions"].temp_size_in_bytes for n in (2, 28))
    assert all_ < two + 26 * 2 * ROWS * OWN * POSITION


@pytest.mark.slow
def test_the_whole_answer_in_one_program():
    model, params = Vica(PUBLISHED), abstract_vica(PUBLISHED)[0]
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
    generate = make_generate(model, SAMPLING, 64)
    memory = generate.lower(params, BATCH, key).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 6 * GB
