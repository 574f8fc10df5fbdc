"""The tokenizer of a checkpoint, from local files only.

The one place that imports ``transformers``. No code from the folder is ever run.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from vica_jax.errors import InputError


class TokenizerError(InputError):
    """A folder that holds no usable tokenizer."""


@runtime_checkable
class Tokenizer(Protocol):
    """What this package asks of a tokenizer."""

    def __len__(self) -> int: ...

    def encode(self, text: str, /, *, add_special_tokens: bool) -> list[int]: ...

    def decode(self, ids: Sequence[int], /, *, skip_special_tokens: bool) -> str: ...


def load_tokenizer(folder: str | os.PathLike[str]) -> Any:
    """The tokenizer in ``folder`` through ``transformers.AutoTokenizer``.

    Raises:
      TokenizerError: the folder has no tokenizer files or they cannot be read.
    """
    path = Path(folder)
    if not any((path / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise TokenizerError(
            f"{path}: no tokenizer here (neither tokenizer.json nor vocab.json); "
            "copy the tokenizer files of the original checkpoint into the folder"
        )
    # It advises on a missing torch, which nothing here needs.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer, PreTrainedConfig

    try:
        return AutoTokenizer.from_pretrained(
            str(path),
            # The model's own config.json is none of the tokenizer's business.
            config=PreTrainedConfig(),
            local_files_only=True,
            trust_remote_code=False,
        )
    except Exception as error:  # transformers raises many kinds for broken files
        reason = str(error).strip().split("\n")[0]
        raise TokenizerError(f"{path}: tokenizer cannot be read: {reason}") from error


def stream_text(tokenizer: Tokenizer, ids: Sequence[int], sent: str) -> str:
    """The text that ``ids`` add after ``sent``, fit for showing at once.

    Incomplete characters and trailing blanks are held back until what follows is
    known, so the pieces join to the stripped answer.
    """
    text = tokenizer.decode(ids, skip_special_tokens=True).strip()
    text = text.rstrip("�").rstrip()
    return text[len(sent) :] if text.startswith(sent) else ""
