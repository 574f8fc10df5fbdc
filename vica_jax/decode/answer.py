"""An answer with everything needed to get it again."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vica_jax.data.tokenizer import Tokenizer
from vica_jax.decode.exact import Exact
from vica_jax.decode.prompt import Seen


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer and everything needed to get it again.

    ``token_ids`` end with the EOS id unless ``finish`` is ``length``. ``tokens`` counts
    the prompt per stream; ``seconds`` is wall time per step (of the whole batch).
    ``exact`` is there where it was asked for: see ``decode.exact``.
    """

    text: str
    token_ids: list[int]
    finish: str
    frame_indices: list[int]
    frame_times: list[float]
    tokens: dict[str, int]
    seconds: dict[str, float]
    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    exact: Exact | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, ``answer`` first; ``exact`` only where it was asked for."""
        fields = asdict(self)
        if self.exact is None:
            del fields["exact"]
        return {"answer": fields.pop("text"), **fields}


def make_answer(
    ids: Sequence[int],
    eos_ids: tuple[int, ...],
    tokenizer: Tokenizer,
    seen: Seen,
    *,
    text_tokens: int,
    seconds: dict[str, float],
    settings: dict[str, Any],
    notes: Sequence[str],
    exact: Exact | None = None,
) -> Answer:
    """Put together what one row of a batch gave; ``ids`` may run past the EOS id."""
    ids = until_eos(ids, eos_ids)
    sample = seen.sample
    return Answer(
        text=tokenizer.decode(ids, skip_special_tokens=True).strip(),
        token_ids=ids,
        finish="eos" if ids[-1] in eos_ids else "length",
        frame_indices=[int(i) for i in sample.indices] if sample else [],
        frame_times=[float(t) for t in sample.times] if sample else [],
        tokens={
            **seen.tokens,
            "text": text_tokens,
            "total": sum(seen.tokens.values()) + text_tokens,
            "new": len(ids),
        },
        seconds={name: round(value, 4) for name, value in seconds.items()},
        settings=settings,
        notes=[*seen.notes, *notes],
        exact=exact,
    )


def until_eos(ids: Sequence[int], eos_ids: tuple[int, ...]) -> list[int]:
    """Ids up to and with the first EOS id."""
    stop = next((i + 1 for i, token in enumerate(ids) if token in eos_ids), len(ids))
    return list(ids[:stop])
