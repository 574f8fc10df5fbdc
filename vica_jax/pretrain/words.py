"""The small model's own tokenizer: byte pairs over the world's own questions.

Byte-level BPE, so any text can be written, with three habits that keep sequences of a
small model short and easy to read: digits stand alone, as in Qwen2's, and so do the
letters of options; names of categories are one token with what joins them in a list;
and merges may cross blanks and new lines ("superwords", Liu et al. 2025), so whatever
every question repeats is one token.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from vica_jax.files import write_text

END, TURN, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END, TURN, TURN_END)
ALONE = r"\d|\b[A-H](?=\.)"
JOINED = ("", " ", ", ", ". ")  # what a name's token may begin with


def train_tokenizer(
    texts: Iterable[str], names: Sequence[str], vocab_size: int
) -> Tokenizer:
    """A tokenizer of ``vocab_size`` ids, in which every name is one token.

    ``names`` are words such as categories and their plurals; each is a token with
    each of ``JOINED`` before it.
    """
    longest_first = sorted(set(names), key=lambda name: (-len(name), name))
    name = "|".join(longest_first)
    split = Regex(rf"{ALONE}|(?:[,.]? )?\b(?:{name})\b")
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(split, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    often = [f"{joint}{name}\n" * 1000 for name in longest_first for joint in JOINED]
    tokenizer.train_from_iterator([*texts, *often], trainer)
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """The files ``transformers`` reads, into an existing folder."""
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True) + "\n")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": [TURN, TURN_END],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "model_max_length": 32768,
        "pad_token": END,
        "padding_side": "right",
        "unk_token": None,
    }
    text = json.dumps(settings, indent=1)
    write_text(folder / "tokenizer_config.json", f"{text}\n")


def name_ids(tokenizer: Any, names: Sequence[Sequence[str]]) -> dict[int, int]:
    """Token id -> number of the category, for each spelling of its name.

    Raises:
      ValueError: a name is more than one token.
    """
    ids = {}
    for number, spellings in enumerate(names):
        for spelling in spellings:
            for joint in JOINED:
                text = f"{joint}{spelling}"
                found = tokenizer.encode(text, add_special_tokens=False)
                found = getattr(found, "ids", found)
                if len(found) != 1:
                    raise ValueError(f"{text!r} is {len(found)} tokens, not one")
                ids[found[0]] = number
    return ids
