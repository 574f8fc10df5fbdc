"""A question with its answer and every score of it. See ``results`` for the sums."""

import re
from dataclasses import dataclass

from vica_jax.eval.answers import Answer
from vica_jax.eval.benchmarks import Question
from vica_jax.eval.lenient import score_lenient
from vica_jax.eval.scores import score_official, score_spatial_mllm
from vica_jax.eval.thinking import canonical_answer

NOT_RECORDED = "no answer recorded: the run is unfinished or its line was lost"
NO_FINAL_ANSWER = "no answer in the final segment"


@dataclass(frozen=True, kw_only=True)
class Item:
    """A question, its answer and its scores, each between 0 and 1.

    ``prediction`` is the text that was scored, None where there is none; ``problem``
    then says why. ``exact`` scores the answer of exact scoring; ``hit`` says whether
    that answer is the truth (the same letter, the same number).
    """

    question: Question
    answer: Answer | None
    prediction: str | None
    problem: str | None
    metric: str
    score: float
    lenient: float
    spatial_mllm: float | None = None
    exact: float | None = None
    hit: bool | None = None

    @property
    def answered(self) -> bool:
        return self.prediction is not None

    @property
    def confidence(self) -> float | None:
        return None if self.answer is None else self.answer.confidence


def score_item(
    question: Question,
    answer: Answer | None,
    benchmark: str,
    *,
    final_segment: bool = False,
) -> Item:
    """One question's scores; ``final_segment``: the answer of a thinking text counts.

    Truths of 0, on which the official code stops, are scored as its safe mode does.
    """
    doc, problem, prediction = question.doc, None, None
    if answer is None:
        problem = NOT_RECORDED
    elif answer.prediction is None:
        problem = plain_text(answer.problem or "", question.video)
    elif final_segment:
        prediction = canonical_answer(doc, answer.prediction, benchmark=benchmark)
        problem = None if prediction is not None else NO_FINAL_ANSWER
    else:
        prediction = answer.prediction
    metric, score = score_official(doc, prediction, benchmark=benchmark, strict=False)
    _, lenient = score_lenient(doc, prediction, benchmark=benchmark)
    spatial = None
    if benchmark == "vsibench":
        spatial = 0.0
        if prediction is not None:
            text_doc = {**doc, "ground_truth": str(doc["ground_truth"])}
            spatial = float(score_spatial_mllm(text_doc, prediction).score)
    exact, hit = None, None
    exact_answer = None if answer is None else answer.exact_answer
    if exact_answer is not None and question.kind != "text":
        _, exact = score_official(doc, exact_answer, benchmark=benchmark, strict=False)
        hit = _same(exact_answer, question)
    return Item(
        question=question,
        answer=answer,
        prediction=prediction,
        problem=problem,
        metric=metric,
        score=float(score),
        lenient=float(lenient),
        spatial_mllm=spatial,
        exact=None if exact is None else float(exact),
        hit=hit,
    )


def plain_text(text: str, video: str) -> str:
    """A problem on one line, without the folders of the machine that met it."""
    text = " ".join(text.split())
    if video:
        text = re.sub(rf"[^\s'\"()=]*{re.escape(video)}", "\0", text)
    text = re.sub(r"(?<![\w.:/])/(?:[^\s'\":/]+/)+", "", text)
    return text.replace("\0", video)


def _same(answer: str, question: Question) -> bool:
    if question.kind == "choice":
        return answer.strip().lower() == str(question.truth).strip().lower()
    try:
        return float(answer) == float(question.truth)
    except ValueError:
        return False
