"""int8 beside the exact program: decoding with int8 weights, and over an int8 cache.

Rounding changes tokens, and random weights have no margins: of the tokens some are the
same, none by chance. ``docs/int8.md`` holds the errors on the recorded checkpoints.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scripts.bench_case import Sides, compiled, unequal_share
from scripts.bench_inputs import noise, text_batch, text_model, text_weights, tokens
from vica_jax.decode.generate import Sampling, decode, make_generate, start
from vica_jax.models.quantize import quantize, to_int8
from vica_jax.models.variants import QWEN2_0_5B
from vica_jax.models.vica import Vica

NEW = 32
MOST = 0.9  # of the tokens may differ


def int8_weights(reduced: bool) -> Sides:
    llm = replace(QWEN2_0_5B, depth=2, vocab_size=8192) if reduced else QWEN2_0_5B
    exact, batch = text_weights(llm)[1], text_batch(tokens(1, 64, llm.vocab_size))
    generate = make_generate(Vica(text_model(llm)), _greedy(llm.vocab_size), NEW)
    key = jax.random.key(0)
    theirs, _, _ = compiled(generate, exact, batch, key)
    ours, seconds, temporaries = compiled(generate, quantize(exact), batch, key)
    return _sides(ours, theirs, seconds, temporaries, "the same, exact weights")


def int8_cache(reduced: bool) -> Sides:
    llm = replace(QWEN2_0_5B, depth=4, vocab_size=8192)
    rows, slots = (1, 2048) if reduced else (8, 8192)
    params = text_weights(llm)[1]
    shape = rows, slots, llm.num_kv_heads, llm.head_dim
    kept = [
        (jnp.asarray(noise(*shape, seed=i)), jnp.asarray(noise(*shape, seed=100 + i)))
        for i in range(llm.depth)
    ]
    choice, model = _greedy(llm.vocab_size).choice(), Vica(text_model(llm))

    def steps(params: Any, logits: Any, lengths: Any, cache: Any) -> jax.Array:
        state = start(choice, logits, lengths, jax.random.key(0), cache)
        return decode(model, NEW, params, choice, state, jnp.asarray(NEW))[1]

    logits = jnp.asarray(noise(rows, llm.vocab_size))
    lengths = jnp.full(rows, slots - NEW, jnp.int32)
    small = jax.tree.map(to_int8, kept)
    theirs, _, _ = compiled(steps, params, logits, lengths, kept)
    ours, seconds, temporaries = compiled(steps, params, logits, lengths, small)
    return _sides(ours, theirs, seconds, temporaries, "the same, an exact cache")


def _greedy(vocab_size: int) -> Sampling:
    return Sampling(eos_ids=(0,), pad_id=0, vocab_limit=vocab_size, min_new_tokens=NEW)


def _sides(ours: Any, theirs: Any, seconds: float, temporaries: int, peer: str):
    return Sides(
        ours=lambda: np.asarray(ours()),
        theirs=lambda: np.asarray(theirs()),
        gap=unequal_share,
        most=MOST,
        peer=peer,
        compile_s=seconds,
        temporaries=temporaries,
    )
