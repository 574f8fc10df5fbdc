"""Qwen ChatML prompts (``qwen_1_5``) and where ``<image>`` stands in them.

Each ``<image>`` is the place of one video or image. Text is tokenised in chunks
around the tags, as the reference does; the tokenizer's own chat template is not used.
"""

from collections.abc import Sequence

from vica_jax.data.tokenizer import Tokenizer, TokenizerError
from vica_jax.errors import InputError

IMAGE_TAG = "<image>"
SYSTEM = "You are a helpful assistant."
PROMPT_STYLES = ("plain", "vica_readme", "raw")

# VSI-Bench wrapper of the ViCA READMEs; the apostrophe is U+2019 there.
_README_PRE = "These are frames of a video."
_README_CHOICE = "Answer with the option\u2019s letter from the given choices directly."
_README_NUMBER = "Please answer the question using a single word or phrase."


class PromptError(InputError):
    """A question that cannot become a prompt; the message says why."""


def user_turn(
    question: str,
    *,
    num_media: int,
    style: str = "plain",
    time_instruction: str = "",
    options: Sequence[str] = (),
) -> str:
    """The text of one user turn with its ``<image>`` tags.

    * ``plain``: ``<image>\\n{question}``; a question that already has its tags keeps
      them where they are. With a time instruction:
      ``<image>\\n{instruction}\\n{question}``.
    * ``vica_readme``: the VSI-Bench wrapper of the ViCA READMEs.
    * ``raw``: the question exactly as typed.

    Raises:
      PromptError: an empty question, an unknown style, options or a time instruction
        with a style that has no place for them, or a number of tags that is not
        ``num_media``.
    """
    if not question.strip():
        raise PromptError("the question is empty: pass some text with --question")
    if style not in PROMPT_STYLES:
        raise PromptError(
            f"unknown prompt style {style!r}: choose one of {', '.join(PROMPT_STYLES)}"
        )
    tagged = question.count(IMAGE_TAG)
    if tagged or style == "raw":
        if tagged != num_media:
            raise PromptError(
                f"the question has {tagged} {IMAGE_TAG} tag(s) but {num_media} "
                "video(s)/image(s) are given: write one tag for each"
            )
        if style == "raw":
            if options or time_instruction:
                raise PromptError(
                    "a raw prompt is taken as typed, without options or a time "
                    "instruction: write them into the question, or leave out "
                    "--raw_prompt"
                )
            return question
        if style != "plain" or time_instruction:
            raise PromptError(
                f"a question with its own {IMAGE_TAG} tags takes no prompt style and "
                "no time instruction: leave the tags out, or use --raw_prompt"
            )
        return _with_options(question, options)
    tags = f"{IMAGE_TAG}\n" * num_media
    if style == "plain":
        instruction = f"{time_instruction}\n" if time_instruction else ""
        return tags + instruction + _with_options(question, options)
    asked = "\n".join([*options, _README_CHOICE] if options else [_README_NUMBER])
    head = f"{tags}{time_instruction}\n\n" if num_media else ""
    return f"{head}{_README_PRE}\n\nQuestion: {question}\n{asked}\n"


def _with_options(question: str, options: Sequence[str]) -> str:
    return "\n".join([question, *options])


def chatml(turns: Sequence[tuple[str, str | None]], system: str = SYSTEM) -> str:
    """The prompt for (user, assistant) turns; a last answer None is to be written."""
    text = f"<|im_start|>system\n{system}<|im_end|>\n"
    for user, assistant in turns:
        text += f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
        if assistant is not None:
            text += f"{assistant}<|im_end|>\n"
    return text


def tokenize_chunks(tokenizer: Tokenizer, prompt: str) -> list[list[int]]:
    """Token ids of the text before, between and after the ``<image>`` tags."""
    return [
        tokenizer.encode(chunk, add_special_tokens=False)
        for chunk in prompt.split(IMAGE_TAG)
    ]


def training_turn(role: str, text: str) -> str:
    """One turn as training writes it; ``role`` is system, user or assistant.

    A training prompt is the system turn and then each turn, tokenised one by one
    (``preprocess_qwen`` of the reference); the turns of ``chatml`` joined are the same.
    """
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def always_supervised(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids that are labels wherever they stand: start and end of a turn, newline.

    They are asked of the tokenizer. The reference takes the special tokens by their
    place among ``additional_special_tokens`` (there must be exactly two) and 198 for
    the newline, its id in Qwen2's vocabulary; with those tokenizers both give the same.

    Raises:
      TokenizerError: one of them is not a single token, so this is no Qwen2 tokenizer.
    """
    ids = []
    for text in ("<|im_start|>", "<|im_end|>", "\n"):
        found = tokenizer.encode(text, add_special_tokens=False)
        if len(found) != 1:
            raise TokenizerError(
                f"the tokenizer writes {text!r} as {len(found)} tokens, not one: "
                "training needs a Qwen2 tokenizer with its chat tokens"
            )
        ids.append(found[0])
    return frozenset(ids)
