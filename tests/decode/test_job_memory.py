"""What questions need per device: parts counted by hand, and ways to need less."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vica_jax.data.example import Example, LengthError, collate, video_medium
from vica_jax.decode.memory import Job, fit, measure_job, savings, weight_bytes
from vica_jax.decode.programs import video_batch
from vica_jax.errors import InputError
from vica_jax.models.variants import VARIANTS
from vica_jax.models.vica import abstract_vica

pytestmark = pytest.mark.usefixtures("abstract_arrays")

CFG = VARIANTS["tiny"]
SIZES = [x.size for x in jax.tree.leaves(abstract_vica(CFG)[0])]
JOB = Job(frames=4, frame_hw=(40, 60), questions=3, question_tokens=20, new_tokens=100)


@pytest.mark.parametrize("name", ["tiny", "world_siglip"])
@pytest.mark.parametrize(("frames", "hw"), [(1, (40, 60)), (5, (64, 130))])
def test_abstract_batch_is_what_collate_makes(name, frames, hw):
    layout = VARIANTS[name].layout
    medium = video_medium(np.zeros((frames, *hw, 3), np.uint8), layout)
    example = Example(chunks=[[0] * 14, [0] * 30], media=[medium])
    made = collate([example], layout)
    found = video_batch(layout, frames=frames, frame_hw=hw, text_tokens=44)
    told = {key: (x.shape, x.dtype) for key, x in found.items()}
    assert told == {key: (x.shape, x.dtype) for key, x in made.items()}


def test_the_parts_of_questions():
    memory = measure_job(CFG, JOB)
    assert memory.weights == 2 * sum(SIZES)
    # SigLIP's frames; Hiera's every second, in buckets of 64; 192 positions of text.
    length = 128  # 4 x 12 + 2 x 6 visual tokens and 14 of text, in their bucket
    text = 4 * (2 * length + 1)
    assert memory.pixels == 4 * 72 * 72 * 3 + 2 * 64 * 64 * 3 + text + 8
    visual = 1 + 4 * 9 + 2 * 4
    assert memory.bank == 2 * visual * 64
    # 4 layers, keys and values of 2 heads of 16, bfloat16.
    position = 4 * 2 * 2 * 16 * 2
    assert memory.prefix == length * position
    # 3 questions in a batch of 4; 20 tokens in a bucket of 64, room for 100 in 128.
    assert memory.caches == 4 * (64 + 128) * position
    assert memory.logits == 4 * 600 * 5
    works = memory.encode_work, memory.prefill_work
    assert min(*works, memory.questions_work, memory.decode_work) > 0


def test_which_parts_exist_together():
    memory = measure_job(CFG, JOB)
    m = memory
    assert m.phases == {
        "encode": m.weights + m.pixels + m.bank + m.encode_work,
        "prefill": m.weights + m.bank + m.prefix + m.prefill_work,
        "questions": m.weights + m.prefix + m.caches + m.logits + m.questions_work,
        "decode": m.weights + m.prefix + m.caches + m.logits + m.decode_work,
    }
    assert m.peak == max(m.phases.values())
    # float32 doubles what is in the compute dtype; temporaries are float32's anyway.
    wide = measure_job(CFG, replace(JOB, dtype="float32"))
    for part in ("weights", "bank", "prefix", "caches"):
        assert getattr(wide, part) == 2 * getattr(memory, part)
    assert wide.encode_work == memory.encode_work and wide.pixels == memory.pixels


def test_int8_is_counted_with_its_scales():
    memory = measure_job(CFG, replace(JOB, weights="int8", kv="int8"))
    D, V, M, N, K, H = 64, 600, 128, 4, 2, 16
    into = [(D, N * H), (D, K * H), (D, K * H), (N * H, D), (D, M), (D, M), (M, D)]
    kernels = [*4 * into, (D, V)]
    rest = sum(SIZES) - sum(rows * columns for rows, columns in kernels)
    expected = 2 * rest + sum((rows + 4) * columns for rows, columns in kernels)
    assert memory.weights == expected
    assert memory.prefix == 128 * 4 * 2 * 2 * (16 + 4)
    plain = measure_job(CFG, JOB)
    assert memory.caches * 2 * 16 == plain.caches * (16 + 4)


def test_tied_embeddings_stay_as_they_are():
    """The output matrix is the embedding: looked up, so not in int8."""
    shape = jax.ShapeDtypeStruct((600, 64), jnp.float32)
    tied = {"llm": {"embedder": {"embedding": shape}}}
    assert weight_bytes(tied, 2, "int8") == 2 * 600 * 64


def test_what_does_not_fit_the_context():
    layout = replace(CFG.layout, context_length=128)
    with pytest.raises(LengthError, match="4 frames and 114 tokens of text"):
        measure_job(CFG.with_layout(layout), replace(JOB, question_tokens=100))
    with pytest.raises(InputError, match="3 devices do not divide the model's 2 kv"):
        measure_job(CFG, replace(JOB, devices=3))


def test_room_within_the_context():
    layout = replace(CFG.layout, context_length=160)
    memory = measure_job(CFG.with_layout(layout), replace(JOB, new_tokens=5000))
    assert memory.caches == 4 * (64 + 128) * 4 * 2 * 2 * 16 * 2  # 66 of 5,000 fit


def test_savings_end_with_what_changes_answers():
    job = Job(questions=18, dtype="float32", frames=32)
    assert savings(VARIANTS["vica2_7b"], job) == [
        *({"questions": n} for n in (16, 8, 4, 2, 1)),
        {"dtype": "bfloat16"},
        {"devices": 2},
        {"devices": 4},
        {"frames": 16},
        {"frames": 8},
    ]
    assert not savings(VARIANTS["vica2_7b"], Job(devices=4, frames=8))


def test_fit_keeps_what_helps():
    asked = []

    def measure(job, changes):
        asked.append(dict(changes))
        size = 40 if job.dtype == "float32" else 20
        return size / job.devices + min(job.questions, 8)

    job = Job(questions=18, dtype="float32", frames=8)
    assert fit(CFG, job, 48, measure) == ({}, 48) and len(asked) == 1
    # 16 and 8 save nothing; with bfloat16 all can be asked at once again.
    assert fit(CFG, job, 30, measure) == ({"dtype": "bfloat16"}, 28)
    assert {"questions": 8, "dtype": "bfloat16"} not in asked
    assert fit(CFG, job, 22, measure) == ({"questions": 2, "dtype": "bfloat16"}, 22)
    # As few questions as needed.
    least = {"questions": 1, "dtype": "bfloat16", "devices": 2}
    assert fit(CFG, job, 5, measure) == (least, 11)
    assert asked[-1] == least
    asked.clear()
    assert fit(CFG, replace(job, dtype="bfloat16"), 22, measure) == (
        {"questions": 2},
        22,
    )
    assert [changes.get("questions") for changes in asked] == [None, 16, 8, 4, 2]
