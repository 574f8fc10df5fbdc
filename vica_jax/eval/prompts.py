"""The text of a benchmark's question, by profile.

* ``vica_readme``: the wrapper of the ViCA READMEs (``data/conversation``), the default
  of ViCA checkpoints. Options are given wherever they are not None.
* ``official``: VSI-Bench's own prompt; VSTI-Bench has the same.
* ``gemini_api`` and ``gpt4v``: official, with another last line for numbers.
* ``spatial_mllm``: official without its first line.

``bare_prompt`` is the text alone, as the benchmarks' code writes it; ``user_turn`` is
what a model of this project is asked, with its ``<image>`` line and, if wanted, the
time instruction: where the README leaves its place, or for the other profiles where
training put it (``<image>\\n{instruction}\\n{prompt}``). Questions of ScanQA are asked
verbatim by every profile.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vica_jax.data import conversation
from vica_jax.data.conversation import PromptError
from vica_jax.eval.question import TYPES, Question

__all__ = [
    "PROFILES",
    "MissingOptionsError",
    "PromptError",
    "bare_prompt",
    "default_max_new_tokens",
    "user_turn",
]

_FRAMES = "These are frames of a video."
_CHOICE = "Answer with the option's letter from the given choices directly."
_NUMBER = "Please answer the question using a single word or phrase."
_NUMBER_ALONE = "Do not response anything other than a single number!"

# The first line and the last line for numbers of every profile but vica_readme.
_LINES = {
    "official": ([_FRAMES], _NUMBER),
    "gemini_api": ([_FRAMES], _NUMBER_ALONE),
    "gpt4v": ([_FRAMES], _NUMBER_ALONE),
    "spatial_mllm": ([], _NUMBER),
}
PROFILES = ("vica_readme", *_LINES)
SCANQA_MAX_NEW_TOKENS = 256


class MissingOptionsError(PromptError, TypeError):
    """A choice question without options (the official code raises a TypeError)."""


def default_max_new_tokens(profile: str) -> int:
    """The budget that the profile's source generates with (ScanQA's own is 256)."""
    _check_profile(profile)
    return 1024 if profile in ("vica_readme", "spatial_mllm") else 16


def bare_prompt(profile: str, question: Question | Mapping[str, Any]) -> str:
    """The prompt without an image line.

    Args:
      question: a Question, or a row of VSI-Bench or VSTI-Bench as published. Rows of
        VSTI-Bench have options for numbers too, which ``vica_readme`` would give: a
        Question has them for choices alone.

    Raises:
      PromptError: an unknown profile; an unknown question type or a choice question
        without options (``vica_readme`` takes both; ``spatial_mllm`` does not take an
        empty list of options either); no text.
      KeyError: a row without ``question_type`` or ``question``.
    """
    return _prompt(profile, question, num_media=0, time_instruction="")


def user_turn(
    profile: str,
    question: Question | Mapping[str, Any],
    *,
    time_instruction: str = "",
    with_media: bool = True,
) -> str:
    """The user turn of one question about one video, as a model is asked it.

    ``time_instruction`` is ``data/video.time_instruction`` of the clip, or empty.
    Without media there is no ``<image>`` line.

    Raises: as ``bare_prompt``; also where the question holds an ``<image>`` tag of its
      own and cannot keep it.
    """
    num_media = int(with_media)
    return _prompt(
        profile, question, num_media=num_media, time_instruction=time_instruction
    )


def _prompt(
    profile: str,
    question: Question | Mapping[str, Any],
    *,
    num_media: int,
    time_instruction: str,
) -> str:
    _check_profile(profile)
    question_type, text, options = _fields(question)
    verbatim = question_type in TYPES["scanqa"]
    if profile == "vica_readme" and not verbatim:
        # The README joins whatever list there is: an empty one leaves an empty line.
        given = () if options is None else options or ("",)
        return conversation.user_turn(
            text,
            num_media=num_media,
            style="vica_readme",
            time_instruction=time_instruction,
            options=given,
        )
    if not verbatim:
        text = _official(profile, question_type, text, options)
    if not num_media and not time_instruction:
        return text
    return conversation.user_turn(
        text, num_media=num_media, time_instruction=time_instruction
    )


def _official(
    profile: str, question_type: Any, text: Any, options: Sequence[str] | None
) -> str:
    kind = {**TYPES["vsibench"], **TYPES["vstibench"]}.get(question_type)
    opening, number_line = _LINES[profile]
    if kind == "number":
        return "\n".join([*opening, text, number_line])
    if kind != "choice":
        raise PromptError(
            f"unknown question type {question_type!r}: profile {profile} has no "
            "prompt for it"
        )
    if options is None or (profile == "spatial_mllm" and not options):
        raise MissingOptionsError(
            f"a question of type {question_type} without options: profile {profile} "
            "lists them"
        )
    # An empty list leaves an empty line, as the official join does.
    return "\n".join([*opening, text, "Options:", "\n".join(options), _CHOICE])


def _fields(
    question: Question | Mapping[str, Any],
) -> tuple[Any, Any, Any]:
    """Type, text and options; of a row as published they can be anything."""
    if isinstance(question, Mapping):
        return question["question_type"], question["question"], question.get("options")
    return question.question_type, question.question, question.options


def _check_profile(profile: str) -> None:
    if profile not in PROFILES:
        raise PromptError(
            f"unknown prompt profile {profile!r}: choose one of {', '.join(PROFILES)}"
        )
