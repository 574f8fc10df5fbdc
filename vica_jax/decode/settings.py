"""What an answer's settings are, and what of ``generation_config.json`` is obeyed.

Decoding is greedy unless a temperature is given: the file's ``do_sample`` and sampling
numbers are not obeyed; its EOS ids, pad id, repetition penalty, suppressed ids and
``min_new_tokens`` are, as HF's ``generate(do_sample=False)`` would. A key that would
change a greedy answer and is not implemented is an error, never silently dropped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vica_jax.decode.generate import Sampling
from vica_jax.errors import InputError

# Keys that change greedy decoding in HF, with the value at which they do nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "num_beams": (1, None),
    "no_repeat_ngram_size": (0, None),
    "encoder_repetition_penalty": (1.0, 1, None),
    "encoder_no_repeat_ngram_size": (0, None),
    "bad_words_ids": (None, []),
    "sequence_bias": (None, {}),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "begin_suppress_tokens": (None, []),
    "exponential_decay_length_penalty": (None,),
    "guidance_scale": (None, 1, 1.0),
    "penalty_alpha": (None, 0, 0.0),
    "min_length": (0, None),
    "stop_strings": (None, []),
    "watermarking_config": (None,),
}


class GenerationConfigError(InputError):
    """A generation_config.json value that cannot be honoured."""


@dataclass(frozen=True, kw_only=True)
class AnswerSettings:
    """Every choice behind an answer; all of it stands in the JSON output.

    ``num_frames`` uniform frames, or with ``fps`` that rate up to ``num_frames``.
    ``token_ratio`` is (N_hiera, S_stage, s_pool), None for the checkpoint's own.
    ``image_mode``: ``auto`` sends one image through anyres and pads several to
    squares, as in training. ``repetition_penalty`` None takes the checkpoint's.
    """

    num_frames: int = 64
    fps: float | None = None
    source_fps: float | None = None
    reader: Literal["auto", "decord", "pyav"] = "auto"
    token_ratio: tuple[int, int, int] | None = None
    image_mode: Literal["auto", "anyres", "padded"] = "auto"
    time_instruction: bool = False
    prompt_style: Literal["plain", "vica_readme", "raw"] = "plain"
    options: tuple[str, ...] = ()
    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    repetition_penalty: float | None = None

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be >= 1, got {self.max_new_tokens}")
        if self.num_frames < 1:
            raise InputError(f"num_frames must be >= 1, got {self.num_frames}")


def make_sampling(
    file: Mapping[str, Any],
    hf_config: Mapping[str, Any],
    tokenizer: Any,
    settings: AnswerSettings,
    vocab_size: int,
) -> Sampling:
    """How to decode with a checkpoint: its generation config under the settings.

    Raises:
      GenerationConfigError: a value that would change greedy decoding and is not
        implemented, or no EOS id anywhere.
    """
    for key, neutral in _UNSUPPORTED.items():
        if file.get(key) not in neutral:
            raise GenerationConfigError(
                f"generation_config.json: {key} = {file[key]!r} is not supported; "
                f"remove the key or set it to {neutral[0]!r}"
            )
    eos = _ids(file.get("eos_token_id", hf_config.get("eos_token_id")))
    if not eos:
        eos = _ids(getattr(tokenizer, "eos_token_id", None))
    if not eos:
        raise GenerationConfigError(
            "no eos_token_id in generation_config.json, config.json or the tokenizer: "
            "an answer would never end"
        )
    pads = _ids(file.get("pad_token_id", hf_config.get("pad_token_id")))
    penalty = settings.repetition_penalty
    if penalty is None:
        penalty = file.get("repetition_penalty")
    return Sampling(
        eos_ids=eos,
        pad_id=pads[0] if pads else eos[0],
        vocab_limit=min(len(tokenizer), vocab_size),
        repetition_penalty=float(penalty if penalty is not None else 1.0),
        suppress_ids=_ids(file.get("suppress_tokens")),
        min_new_tokens=int(file.get("min_new_tokens") or 0),
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
    )


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    values = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(v, int) and v >= 0 for v in values):
        raise GenerationConfigError(
            f"generation_config.json: {value!r} is not a token id or a list of them"
        )
    return tuple(values)
