"""ScanQA's text measures: BLEU, ROUGE-L, CIDEr, METEOR, and exact match.

The rules are those of the COCO caption scorers as Spatial-MLLM's evaluation calls them:
no tokenizer and no lower-casing; only full stops at a prediction's end are taken off.
Scores are fractions (that evaluation prints all but EM times 100). METEOR is a Java
program: it is left out unless its jar is given.

``pycocoevalcap``, which keeps the original of these scorers, was looked at: it brings
jars of 40 MB, and three measures are short enough to stand here.

The refined exact match is no part of that evaluation; it is the public definition of
the LEO line of work, on cleaned answers.
"""

import math
import re
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vica_jax.errors import InputError

ORDERS: tuple[int, ...] = (1, 2, 3, 4)  # n-grams of BLEU and CIDEr
ROUGE_BETA = 1.2
CIDER_SIGMA = 6.0


class ScanqaError(InputError):
    """Predictions that cannot be scored."""


class UnknownIdError(ScanqaError, KeyError):
    """A prediction for a question that the references do not have."""

    __str__ = InputError.__str__


@dataclass(frozen=True, kw_only=True)
class ScanqaScores:
    """Fractions; ``bleu`` is BLEU-1 to BLEU-4, ``count`` the distinct questions."""

    count: int
    cider: float
    bleu: tuple[float, float, float, float]
    rouge_l: float
    em: float
    meteor: float | None = None


def reference_id(sample_id: str) -> str:
    """The question that a sample asks: its last ``_`` part is replaced by 0."""
    return "_".join([*sample_id.split("_")[:-1], "0"])


def score_scanqa(
    references: Mapping[str, Sequence[str]],
    predictions: Sequence[tuple[str, str]],
    *,
    meteor_jar: Path | str | None = None,
) -> ScanqaScores:
    """All measures of a run.

    Args:
      references: the answers of each question.
      predictions: (id of the question, answer); ids as the references have them (see
        ``reference_id`` for those of samples). Of several for one question the last
        counts, but every one of them counts for EM.
      meteor_jar: ``meteor-1.5.jar``.

    Raises:
      UnknownIdError: a prediction whose id has no references.
      ScanqaError: no predictions, no reference with a word in it, a question without
        references, or METEOR failing.
    """
    if not predictions:
        raise ScanqaError("no ScanQA predictions to score")
    last, exact = {}, 0
    for question_id, text in predictions:
        if question_id not in references:
            raise UnknownIdError(
                f"a prediction for {question_id!r}, which has no reference answers"
            )
        last[question_id] = text.rstrip(".")
        exact += text in references[question_id]
    candidates = list(last.values())
    answers = [list(references[question_id]) for question_id in last]
    for question_id, texts in zip(last, answers, strict=True):
        if not texts:
            raise ScanqaError(f"{question_id!r} has an empty list of reference answers")
    return ScanqaScores(
        count=len(last),
        cider=float(np.mean(cider(candidates, answers))),
        bleu=bleu(candidates, answers),
        rouge_l=float(np.mean(rouge_l(candidates, answers))),
        em=exact / len(predictions),
        meteor=meteor(candidates, answers, meteor_jar) if meteor_jar else None,
    )


def count_ngrams(text: str) -> Counter[tuple[str, ...]]:
    """How often each run of one to four words stands in a text."""
    words = text.split()
    return Counter(
        tuple(words[start : start + order])
        for order in ORDERS
        for start in range(len(words) - order + 1)
    )


# -------------------------------------------------------------------------------- BLEU
def bleu(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[float, float, float, float]:
    """BLEU-1 to BLEU-4 of a whole set; the closest reference length, shorter on ties.

    Not smoothed, but for 1e-15 over 1e-9 that keep divisions and logarithms finite.
    """
    correct, guessed = dict.fromkeys(ORDERS, 0), dict.fromkeys(ORDERS, 0)
    length = reference_length = 0
    for candidate, texts in zip(candidates, references, strict=True):
        limits: Counter[tuple[str, ...]] = Counter()
        for text in texts:
            limits |= count_ngrams(text)
        for ngram, count in (count_ngrams(candidate) & limits).items():
            correct[len(ngram)] += count
        words = len(candidate.split())
        for order in ORDERS:
            guessed[order] += max(0, words - order + 1)
        length += words
        lengths = [len(text.split()) for text in texts]
        reference_length += min(lengths, key=lambda each: (abs(each - words), each))
    ratio = (length + 1e-15) / (reference_length + 1e-9)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    precision, scores = 1.0, []
    for order in ORDERS:
        precision *= (correct[order] + 1e-15) / (guessed[order] + 1e-9)
        scores.append(precision ** (1 / order) * brevity)
    return scores[0], scores[1], scores[2], scores[3]


# ----------------------------------------------------------------------------- ROUGE-L
def rouge_l(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> list[float]:
    """F score of each candidate by the longest common subsequence, beta 1.2.

    Tokens are what single spaces part (so an empty text is one empty token). The best
    precision and the best recall may come from different references.
    """
    scores = []
    for candidate, texts in zip(candidates, references, strict=True):
        said = candidate.split(" ")
        right = [text.split(" ") for text in texts]
        common = [_common_length(said, tokens) for tokens in right]
        precision = max(common) / len(said)
        recall = max(
            length / len(tokens) for length, tokens in zip(common, right, strict=True)
        )
        weight = ROUGE_BETA**2
        scores.append(
            (1 + weight) * precision * recall / (recall + weight * precision)
            if precision and recall
            else 0.0
        )
    return scores


def _common_length(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    lengths = [0] * (len(right) + 1)
    for token in left:
        diagonal = 0
        for place, other in enumerate(right, 1):
            above = lengths[place]
            longer = diagonal + 1 if token == other else max(above, lengths[place - 1])
            lengths[place], diagonal = longer, above
    return lengths[-1]


# ------------------------------------------------------------------------------- CIDEr
def cider(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> list[float]:
    """CIDEr-D of each candidate, document frequencies from these references.

    With one item every inverse frequency is ln 1 = 0, and so is the score.

    Raises:
      ScanqaError: no reference has a word.
    """
    counted = [[count_ngrams(text) for text in texts] for texts in references]
    frequency = Counter(ngram for texts in counted for ngram in set().union(*texts))
    if not frequency:
        raise ScanqaError("CIDEr: no reference answer has a word in it")
    items = math.log(len(counted))

    def weigh(counts: Counter[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
        return {
            ngram: count * (items - math.log(max(1, frequency[ngram])))
            for ngram, count in counts.items()
        }

    scores = []
    for candidate, texts in zip(candidates, counted, strict=True):
        counts = count_ngrams(candidate)
        said = weigh(counts)
        similar = sum(
            _similarity(said, weigh(right), _bigrams(counts) - _bigrams(right))
            for right in texts
        )
        scores.append(10 * similar / len(texts))
    return scores


def _similarity(
    said: Mapping[tuple[str, ...], float],
    right: Mapping[tuple[str, ...], float],
    longer: int,
) -> float:
    """Clipped cosine, averaged over the orders, less where the lengths differ."""
    total = 0.0
    for order in ORDERS:
        mine = {ngram: w for ngram, w in said.items() if len(ngram) == order}
        theirs = {ngram: w for ngram, w in right.items() if len(ngram) == order}
        both = sum(
            min(weight, theirs[ngram]) * theirs[ngram]
            for ngram, weight in mine.items()
            if ngram in theirs
        )
        norm = math.hypot(*mine.values()) * math.hypot(*theirs.values())
        total += both / norm if norm else 0.0
    return total / len(ORDERS) * math.exp(-(longer**2) / (2 * CIDER_SIGMA**2))


def _bigrams(counts: Counter[tuple[str, ...]]) -> int:
    return sum(count for ngram, count in counts.items() if len(ngram) == 2)


# ------------------------------------------------------------------------------ METEOR
def meteor(
    candidates: Sequence[str], references: Sequence[Sequence[str]], jar: Path | str
) -> float:
    """METEOR of a whole set by ``meteor-1.5.jar`` (English, normalised), with Java.

    Raises:
      ScanqaError: no such jar, no Java, or the program ends early.
    """
    if not Path(jar).is_file():
        raise ScanqaError(f"{jar}: no such file: METEOR needs meteor-1.5.jar")
    command = ["java", "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio"]
    command += ["-l", "en", "-norm"]
    try:
        program = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
    except OSError as error:
        raise ScanqaError(f"METEOR needs java on the PATH ({error.strerror})") from None
    try:
        with program:
            try:
                return _converse(program, candidates, references)
            finally:
                program.kill()
    except (OSError, ValueError):  # ValueError: a line that is no number
        raise ScanqaError(f"{jar}: METEOR ended early: is it the 1.5 jar?") from None


def _converse(
    program: subprocess.Popen[str],
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
) -> float:
    """Statistics of each item, asked for one by one, and then the score of them all."""
    assert program.stdin is not None and program.stdout is not None
    requests = program.stdin

    def ask(kind: str, fields: Sequence[str]) -> None:
        requests.write(f"{' ||| '.join([kind, *fields])}\n")
        requests.flush()

    statistics = []
    for candidate, texts in zip(candidates, references, strict=True):
        hypothesis = candidate.replace("|||", "").replace("  ", " ")
        fields = [" ".join(text.splitlines()) for text in (*texts, hypothesis)]
        ask("SCORE", fields)
        statistics.append(program.stdout.readline().strip())
    ask("EVAL", statistics)
    for _ in candidates:  # their own scores come before that of the set
        program.stdout.readline()
    return float(program.stdout.readline())


# ------------------------------------------------------------------------- exact match
_SPELLING = {
    "letf": "left",
    "let": "left",
    "tehre": "there",
    "brigth": "right",
    "rght": "right",
    "behine": "behind",
    "tv": "TV",
    "chai": "chair",
    "wasing": "washing",
    "waslked": "walked",
    "oclock": "o'clock",
}
_NUMBER_WORDS = """zero one two three four five six seven eight nine ten eleven twelve
    thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"""
_NUMBERS = {**dict(enumerate(_NUMBER_WORDS.split())), 23: "twenty-three"}


def clean_answer(text: str) -> str:
    """An answer as the LEO line compares it.

    Lower case, spaces collapsed, characters other than ASCII letters and digits, white
    space and , ' - : dropped, some misspellings mended, whole numbers to 20 (and 23)
    as words, none as zero, a digit at a word's end and an article before a word
    dropped, "backwards" as "backward".
    """
    text = re.sub(" {2,}", " ", text.lower().strip(" "))
    text = re.sub(r"[^a-z0-9,'\s\-:]+", "", text)
    for wrong, right in _SPELLING.items():
        text = re.sub(rf"\b{wrong}\b", right, text)
    text = re.sub(r"\bo'[ ]+clock\b", "o'clock", text)
    text = re.sub(r"\bnone\b", "zero", re.sub(r"\b0\b", "zero", text))
    for number, word in _NUMBERS.items():
        text = re.sub(rf"\b{number}\b", word, text)
    text = re.sub(r"\b([a-zA-Z]+)[0-9]\b", r"\1", text)
    for article in ("a", "an", "the"):
        text = re.sub(rf"\b{article}\b ([a-zA-Z]+)", r"\1", text)
    return re.sub(r"\bbackwards\b", "backward", text)


def exact_match(answers: Sequence[str], prediction: str) -> tuple[int, int]:
    """(EM, EM-R) of one prediction, all texts cleaned.

    The answers are tried in order: an equal one gives (1, 1); one that contains the
    prediction, or is contained in it, white space aside, gives (0, 1); the first of
    either kind decides. So an equal answer behind a containing one is not seen, and an
    empty prediction is contained in every answer.
    """
    said = clean_answer(prediction)
    packed = "".join(said.split())
    for answer in map(clean_answer, answers):
        other = "".join(answer.split())
        if said == answer:
            return 1, 1
        if packed in other or other in packed:
            return 0, 1
    return 0, 0
