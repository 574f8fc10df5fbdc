"""The programs behind answers, for arrays without values: to be compiled ahead.

Each function lowers the programs in the order in which they run and hands them to
``compile(name, lowered)``, which returns what it compiled. The next program's input is
the last one's output, sharding included.

    opening a session   encode, prefill (of what all questions share)
    asking it           questions (their prefill), begin, decode
    a single answer     encode, prefill, begin, decode
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from vica_jax.data.example import LengthError, bucket_length
from vica_jax.data.pixels import bucket_size
from vica_jax.data.shapes import BatchShape
from vica_jax.decode.generate import (
    TEXT_KEYS,
    DecodeState,
    Rows,
    Sampling,
    begin_program,
    decode,
    encode,
    prefill,
    prefill_after,
    prefill_prefix,
    text_of,
)
from vica_jax.decode.loop import DECODE_CHUNK
from vica_jax.layout import VisualLayout
from vica_jax.models.cache import KV, Prefix
from vica_jax.models.vica import Vica
from vica_jax.typing import Batch, Params

Compile = Callable[[str, Any], Any]
HEAD_TOKENS = 14  # ChatML's system turn and the opening of the user's


def video_batch(
    layout: VisualLayout, *, frames: int, frame_hw: tuple[int, int], text_tokens: int
) -> Batch:
    """What ``collate`` makes of a prompt with one video, as ``ShapeDtypeStruct``s.

    Raises:
      LayoutError, LengthError: video, text and one new token do not fit the context.
    """
    layout.check_video(frames)
    length = layout.video_tokens(frames) + text_tokens
    if length + 1 > layout.context_length:
        raise LengthError(
            f"{frames} frames and {text_tokens:,} tokens of text are {length:,} "
            f"positions, and 1 is to be generated, past the context length of "
            f"{layout.context_length:,}: take fewer frames or shorter questions"
        )
    shape = BatchShape(
        length=bucket_length(length),
        frames=frames,
        hiera_frames=layout.num_hiera_frames(frames),
        frame_hw=bucket_size(*frame_hw) if layout.has_hiera else (0, 0),
    )
    arrays = shape.arrays(1, layout)
    return cast(Batch, {name: _array(*form) for name, form in arrays.items()})


def encode_program(
    model: Vica, params: Params, batch: Batch, compile: Compile
) -> jax.ShapeDtypeStruct:
    """``encode``; returns the visual bank."""
    media = {key: value for key, value in batch.items() if key not in TEXT_KEYS}
    return _run(compile, "encode", params, encode.lower(model, params, media))


def open_programs(
    model: Vica, params: Params, batch: Batch, compile: Compile
) -> tuple[jax.ShapeDtypeStruct, Prefix]:
    """What ``open_session`` runs; returns the visual bank and the prefix."""
    bank = encode_program(model, params, batch, compile)
    lowered = prefill_prefix.lower(model, params, text_of(batch), bank)
    return bank, _run(compile, "prefill", params, lowered)


def ask_programs(
    model: Vica,
    params: Params,
    prefix: Prefix,
    sampling: Sampling,
    compile: Compile,
    *,
    rows: int,
    length: int,
    slots: int,
) -> Sequence[KV]:
    """What ``VideoSession.ask`` runs for ``rows`` questions in their buckets.

    ``length`` positions are prefilled in each row's cache of ``slots``. Returns the
    caches.
    """
    tokens, lengths = _array((rows, length)), _array((rows,))
    lowered = prefill_after.lower(model, slots, params, tokens, lengths, prefix)
    logits, cache = _run(compile, "questions", params, lowered)
    some = Rows(first=0, real=rows, after=prefix.length)
    _decoding(model, params, sampling, compile, logits, cache, some, prefix)
    return cache


def answer_programs(
    model: Vica,
    params: Params,
    batch: Batch,
    sampling: Sampling,
    compile: Compile,
    *,
    slots: int,
) -> None:
    """What ``Assistant.answer`` runs, with a cache of ``slots``."""
    bank = encode_program(model, params, batch, compile)
    lowered = prefill.lower(model, slots, params, text_of(batch), bank)
    logits, cache = _run(compile, "prefill", params, lowered)
    _decoding(model, params, sampling, compile, logits, cache, None, None)


def _decoding(
    model: Vica,
    params: Params,
    sampling: Sampling,
    compile: Compile,
    logits: Any,
    cache: Sequence[KV],
    rows: Rows | None,
    prefix: Prefix | None,
) -> None:
    """The first token, then chunks of the others."""
    lengths = _array((logits.shape[0],))
    key = jax.random.key(0)  # a real one: on a mesh it lies as a question's would
    lowered = begin_program(sampling, logits, lengths, key, rows)
    state = _run(compile, "begin", params, lowered)
    state = DecodeState(**{**vars(state), "cache": cache})
    choice = sampling.choice()
    lowered = decode.lower(
        model, DECODE_CHUNK, params, choice, state, DECODE_CHUNK, prefix
    )
    state, _ = _run(compile, "decode", params, lowered)
    if _placed(params):  # the state may come back in shardings of another program
        lowered = decode.lower(
            model, DECODE_CHUNK, params, choice, state, DECODE_CHUNK, prefix
        )
        _run(compile, "decode again", params, lowered)


def _run(compile: Compile, name: str, params: Params, lowered: Any) -> Any:
    """Compile a program; its outputs as arrays without values."""
    compiled = compile(name, lowered)
    if not _placed(params):
        return jax.tree.map(lambda x: _array(x.shape, x.dtype), lowered.out_info)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        lowered.out_info,
        compiled.output_shardings,
    )


def _placed(params: Params) -> bool:
    """Whether the weights are bound to devices, and so all that is made with them."""
    leaf = jax.tree.leaves(params)[0]
    return getattr(leaf, "committed", leaf.sharding is not None)


def _array(shape: tuple[int, ...], dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)
