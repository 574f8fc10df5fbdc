"""A question on a scene with its exact answer, in the forms of two data sets.

VSI-Bench's row holds the official wording and a letter or a decimal string; ViCA-322K's
record holds one of ten phrasings, drawn when the question was made, and answers a
choice with the letter and the whole option. Both answers score 1.0 under the official
scorer, which reads what stands before the first space and drops full stops.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vica_jax.world.phrasings import INSTRUCTION, PHRASINGS, VSI_WORDING
from vica_jax.world.scene import Scene, SceneError

LETTERS = "ABCDEFGH"
IMAGE = "<image>"  # where ViCA-322K's prompts have the video


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question.

    ``task`` is a question type of VSI-Bench or ``triangular_positional_relationship``,
    ``answer`` what VSI-Bench calls ``ground_truth`` (a letter or a decimal string; the
    triangle's is a line of text), ``options`` are lettered ("A. chair") or None.
    ``truth`` are the facts behind the answer (metres, degrees, seconds; each
    ``ask_*`` says which), ``objects`` the categories that are named, in the order of
    the question. ``slots`` fill the wordings, ``phrasing`` counts from 0.
    """

    task: str
    answer: str
    objects: tuple[str, ...]
    scene: str
    dataset: str
    video: str
    slots: Mapping[str, str] = field(hash=False)
    phrasing: int
    options: tuple[str, ...] | None = None
    truth: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def question(self) -> str:
        """VSI-Bench's wording, without the options (of ViCA's first phrasing where
        VSI-Bench has no such task)."""
        wording = VSI_WORDING.get(self.task, PHRASINGS[self.task][0])
        return wording.format_map(self.slots)

    @property
    def in_vsi_bench(self) -> bool:
        return self.task in VSI_WORDING

    @property
    def text_answer(self) -> str:
        """A choice as "C. chair, table, oven, sofa"; anything else as it is."""
        if self.options is None:
            return self.answer
        return self.options[LETTERS.index(self.answer)]

    def human_turn(self, phrasing: int | None = None) -> str:
        """The prompt of ViCA-322K's form, by another than the drawn phrasing if told.

        It begins with ``<image>`` and a new line. Options and what to do with them
        follow a choice; numbers are asked for by the phrasing itself.
        """
        number = self.phrasing if phrasing is None else phrasing
        lines = [IMAGE, PHRASINGS[self.task][number].format_map(self.slots)]
        if self.options is not None:
            lines += ["Options:", *self.options, INSTRUCTION]
        return "\n".join(lines)

    def record(self) -> dict[str, Any]:
        """A record of ViCA-322K: video and two turns."""
        return {
            "video": self.video,
            "conversations": [
                {"from": "human", "value": self.human_turn()},
                {"from": "gpt", "value": self.text_answer},
            ],
        }

    def vsi_row(self, row_id: int) -> dict[str, Any]:
        """A row of VSI-Bench.

        Raises:
          SceneError: VSI-Bench has no such task (the triangle).
        """
        if not self.in_vsi_bench:
            raise SceneError(
                f"scene {self.scene}: VSI-Bench has no task {self.task}: ask "
                "question.in_vsi_bench before you write a row"
            )
        return {
            "id": row_id,
            "dataset": self.dataset,
            "scene_name": self.scene,
            "question_type": self.task,
            "question": self.question,
            "ground_truth": self.answer,
            "options": None if self.options is None else list(self.options),
        }


def make_question(
    scene: Scene,
    rng: np.random.Generator,
    task: str,
    objects: Sequence[str],
    *,
    answer: str,
    slots: Mapping[str, str],
    truth: Mapping[str, Any],
    options: tuple[str, ...] | None = None,
) -> Question:
    """A question on ``scene`` with one of its ten phrasings drawn."""
    return Question(
        task=task,
        answer=answer,
        objects=tuple(objects),
        scene=scene.name,
        dataset=scene.dataset,
        video=scene.video or f"{scene.dataset}/{scene.name}.mp4",
        slots=dict(slots),
        phrasing=int(rng.integers(len(PHRASINGS[task]))),
        options=options,
        truth=dict(truth),
    )


def letter_options(
    rng: np.random.Generator, right: str, wrong: Sequence[str]
) -> tuple[tuple[str, ...], str]:
    """Lettered options in any order, and the letter of the right one.

    Raises:
      ValueError: two options are the same, or there are more than letters.
    """
    texts = [right, *wrong]
    if len(set(texts)) != len(texts) or len(texts) > len(LETTERS):
        raise ValueError(f"options must differ and be at most {len(LETTERS)}: {texts}")
    order = rng.permutation(len(texts))
    options = tuple(
        f"{letter}. {texts[k]}" for letter, k in zip(LETTERS, order, strict=False)
    )
    return options, LETTERS[int(np.flatnonzero(order == 0)[0])]


def format_number(value: float, decimals: int) -> str:
    """``1.93 -> "1.9"``: plain digits that the official scorer can score.

    Raises:
      SceneError: not finite, or not above 0 once rounded (the scorer divides by it).
    """
    text = f"{value:.{decimals}f}" if math.isfinite(value) else "0"
    if float(text) <= 0:
        raise SceneError(
            f"{value} with {decimals} decimals is no truth that can be scored: it must "
            "be finite and above 0"
        )
    return text
