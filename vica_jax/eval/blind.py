"""The best answers without a video: baselines that a model has to be above.

Two strengths, both chosen on the questions that they are then scored on:

* ``constant``: one answer for each question type, the right letter that is most
  frequent, or the number with the best mean score. Of numbers that are equally good it
  is the median where that is one of them.
* ``by_name``: from the text of the question, leaving its own scene out: what is known
  of the same wording in other scenes, else of the question type. A number is the best
  constant, a choice the option whose text was right most often where it was offered. A
  wording counts from a number of other questions on; that number (one of ``LEAST``), no
  wording at all, or the one answer of ``constant``: what scores best is taken, type by
  type. So this one is never below the other.

Numbers with the same words in another order ("the bed and the sofa", "the sofa and the
bed") have the same wording. Guesses are texts and are scored as a model's answers are.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from vica_jax.errors import InputError
from vica_jax.eval.answers import Answer, collect_answers
from vica_jax.eval.bootstrap import RESAMPLES
from vica_jax.eval.question import TYPES, Benchmark, Question
from vica_jax.eval.results import Results, summarise
from vica_jax.eval.scores import TOLERANCES, read_float, score_official

LEAST = (1, 3, 10, 30)
MOST_CANDIDATES = 8000  # numbers that are tried; more are thinned out evenly
ULPS = 4  # last digits by which an end of a tolerance may be miscalculated
_WORD = re.compile(r"\w+")
_MARK = re.compile(r"\s*\(?[A-Z][.):]\s*")
Guess = Callable[[Question], str]


class BlindError(InputError):
    """Questions that have no blind baseline."""


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """``texts`` by question id; ``rules``: how each question type is answered."""

    name: str
    texts: Mapping[str, str]
    rules: Mapping[str, str]


def guess_constant(questions: Sequence[Question]) -> Guesses:
    """One answer for each question type.

    Raises:
      BlindError: a question that is neither a choice nor a number.
    """
    texts, rules = {}, {}
    for name, own in _by_type(questions).items():
        if own[0].kind == "choice":
            text = _frequent_letter(own)
            rules[name] = f"always {text}"
        else:
            numbers = Numbers(own)
            value, is_median = numbers.best(numbers.weights(range(len(own))))
            text = repr(value)
            rules[name] = f"always {value:.4g}{', the median' if is_median else ''}"
        texts |= {question.id: text for question in own}
    return Guesses(name="constant", texts=texts, rules=rules)


def guess_by_name(questions: Sequence[Question]) -> Guesses:
    """An answer for each question from its text and the other scenes.

    Raises:
      BlindError: as ``guess_constant``.
    """
    constant = guess_constant(questions)
    texts, rules = dict(constant.texts), dict(constant.rules)
    for name, own in _by_type(questions).items():
        best = sum(_score(question, texts[question.id]) for question in own)
        choice = own[0].kind == "choice"
        for rule, guess in _choice_rules(own) if choice else _number_rules(own):
            found = {question.id: guess(question) for question in own}
            score = sum(_score(question, found[question.id]) for question in own)
            if score > best + 1e-9:
                best, rules[name] = score, rule
                texts |= found
    return Guesses(name="by_name", texts=texts, rules=rules)


GUESSERS: Mapping[str, Callable[[Sequence[Question]], Guesses]] = {
    "constant": guess_constant,
    "by_name": guess_by_name,
}


def blind_results(
    benchmark: Benchmark, guesses: Guesses, *, resamples: int = RESAMPLES
) -> Results:
    """The guesses scored as a run's answers are.

    Their intervals take the guesses as given: nothing is chosen anew in a resample.
    """
    answers = [Answer(id=key, prediction=text) for key, text in guesses.texts.items()]
    recipe = {"blind": guesses.name}
    return summarise(benchmark, collect_answers(answers), recipe, resamples=resamples)


def _by_type(questions: Sequence[Question]) -> dict[str, list[Question]]:
    found: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        if question.kind == "text":
            raise BlindError(
                f"question {question.id} ({question.question_type}): only choices and "
                "numbers have a blind baseline"
            )
        found[question.question_type].append(question)
    return dict(found)


def _score(question: Question, text: str) -> float:
    spatial_temporal = question.question_type in TYPES["vstibench"]
    benchmark = "vstibench" if spatial_temporal else "vsibench"
    return score_official(question.doc, text, benchmark=benchmark, strict=False)[1]


# ---------------------------------------------------------------------------- numbers
class Numbers:
    """Truths of questions, and the score of every number that is worth a try.

    A truth's tolerance is an interval with its ends, so the best number is the lower
    end of one. Between the ends the middles are tried first: further from an edge.
    """

    def __init__(self, questions: Sequence[Question]):
        truths = [read_float(question.truth) for question in questions]
        values = np.array([np.nan if t is None else t for t in truths], np.float64)
        there = np.isfinite(values)
        self._values, places = np.unique(values[there], return_inverse=True)
        self._places = np.full(len(values), -1)
        self._places[there] = places
        positive = self._values[self._values > 0]
        lows, highs = (tolerance_ends(positive, side) for side in (-1, 1))
        ends = np.unique([*lows, *highs])
        tried = np.array([*(ends[1:] + ends[:-1]) / 2, *lows, 0.0])
        if len(tried) > MOST_CANDIDATES:
            chosen = np.linspace(0, len(tried) - 1, MOST_CANDIDATES).astype(int)
            tried = tried[chosen]
        self._tried = tried
        self._scores = mra_table(tried, self._values)

    def weights(self, places: Sequence[int]) -> Int64[np.ndarray, " U"]:
        """How often each different truth stands among those of some questions."""
        chosen = self._places[list(places)]
        return np.bincount(chosen[chosen >= 0], minlength=len(self._values))

    def best(self, weights: Int64[np.ndarray, " U"]) -> tuple[float, bool]:
        """The number with the best mean score, and whether it is the median."""
        there = np.flatnonzero(weights)
        if not len(there):
            return 0.0, False
        values, weights = self._values[there], weights[there].astype(np.float64)
        median = float(np.median(np.repeat(values, weights.astype(int))))
        own = (mra_table(np.array([median]), values) @ weights)[0]
        sums = self._scores[:, there] @ weights
        top = int(sums.argmax())
        if own >= sums[top] - 1e-9:
            return median, True
        return float(self._tried[top]), False


def tolerance_ends(
    truths: Float64[np.ndarray, " U"], side: int
) -> Float64[np.ndarray, " E"]:
    """The last number on one side (-1 below, 1 above) that each tolerance of each
    truth takes; to the last bit, since whole numbers often lie just there."""
    tolerances = np.array(TOLERANCES)[:, None]
    near = truths * (1 + side * tolerances)
    # Half ones: below a power of two there are numbers between.
    halves = np.arange(-2 * ULPS, 2 * ULPS + 1)[:, None, None] / 2
    steps = halves * side * np.spacing(near)
    numbers = near + steps  # from within to without
    taken = np.abs(numbers - truths) / truths <= tolerances
    last = taken.sum(0, keepdims=True) - 1
    return np.take_along_axis(numbers, last, 0).ravel()


def mra_table(
    numbers: Float64[np.ndarray, " C"], truths: Float64[np.ndarray, " U"]
) -> Float64[np.ndarray, "C U"]:
    """``scores.mra`` of every number for every truth; a truth of 0 takes 0 alone."""
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.abs(numbers[:, None] - truths) / truths
    kept = np.zeros(errors.shape, np.float64)
    for tolerance in TOLERANCES:
        kept += errors <= tolerance
    kept /= len(TOLERANCES)
    zero = truths == 0
    kept[:, zero] = (numbers == 0)[:, None]
    return kept


def _number_rules(own: Sequence[Question]) -> Iterator[tuple[str, Guess]]:
    numbers = Numbers(own)
    keys = [" ".join(sorted(_WORD.findall(question.question))) for question in own]
    whole, alike = _Places(own, [""] * len(own)), _Places(own, keys)
    place = {question.id: k for k, question in enumerate(own)}
    known: dict[tuple[str, str, bool], str] = {}

    def guess(question: Question, least: float) -> str:
        key = keys[place[question.id]]
        named = alike.others(key, question.video) >= least
        sought = (key if named else "", question.video, named)
        if sought not in known:
            places = (alike if named else whole).without(sought[0], question.video)
            known[sought] = repr(numbers.best(numbers.weights(places))[0])
        return known[sought]

    yield from _rules(guess, "the best constant of the other scenes")


class _Places:
    """Places of questions by key, and by key and scene."""

    def __init__(self, own: Sequence[Question], keys: Sequence[str]):
        self._all: dict[str, list[int]] = defaultdict(list)
        self._inside: Counter[tuple[str, str]] = Counter()
        self._videos = [question.video for question in own]
        for place, (question, key) in enumerate(zip(own, keys, strict=True)):
            self._all[key].append(place)
            self._inside[key, question.video] += 1

    def others(self, key: str, video: str) -> int:
        """How many questions of that key other scenes have."""
        return len(self._all[key]) - self._inside[key, video]

    def without(self, key: str, video: str) -> list[int]:
        return [place for place in self._all[key] if self._videos[place] != video]


def _rules(
    guess: Callable[[Question, float], str], otherwise: str
) -> Iterator[tuple[str, Guess]]:
    """The plain rule and one for each number from which a wording counts."""
    yield otherwise, lambda question: guess(question, math.inf)
    for least in LEAST:
        rule = f"{otherwise}, of the same wording where they have {least} or more"
        yield rule, lambda question, least=least: guess(question, least)


# ---------------------------------------------------------------------------- choices
def _frequent_letter(own: Sequence[Question]) -> str:
    """The right letter that is most frequent; of several the first."""
    counts = Counter(question.truth.strip().upper() for question in own)
    return max(sorted(counts), key=lambda letter: counts[letter], default="A")


def _choice_rules(own: Sequence[Question]) -> Iterator[tuple[str, Guess]]:
    whole = _Shares(own, lambda question: "")
    alike = _Shares(own, lambda question: question.question)

    def guess(question: Question, least: float) -> str:
        named = alike.others(question) >= least
        return (alike if named else whole).guess(question)

    yield from _rules(guess, "the option most often right in the other scenes")


def split_options(question: Question) -> list[tuple[str, str]]:
    """Letter and text of each option; options without a letter are left out."""
    options = question.options or ()
    texts = [option[m.end() :] for option in options if (m := _MARK.match(option))]
    return list(zip(question.letters, texts, strict=True))


class _Shares:
    """How often an option was right where it was offered, other scenes only.

    ``key`` says which questions belong together; an option is its text.
    """

    def __init__(self, own: Sequence[Question], key: Callable[[Question], str]):
        self._key = key
        # Questions by (key,), options by (key, option); with a video, those of it.
        self._asked: Counter[tuple[str, ...]] = Counter()
        self._offered: Counter[tuple[str, ...]] = Counter()
        self._right: Counter[tuple[str, ...]] = Counter()
        for question in own:
            name, video = key(question), question.video
            self._asked.update([(name,), (name, video)])
            for letter, option in split_options(question):
                places = [(name, option), (name, option, video)]
                self._offered.update(places)
                if letter == question.truth.strip().upper():
                    self._right.update(places)

    def others(self, question: Question) -> int:
        name = self._key(question)
        return self._asked[name,] - self._asked[name, question.video]

    def guess(self, question: Question) -> str:
        """The letter of the option with the best share, of several the first.

        Nothing known of an option, it is as likely as any.
        """
        name, video = self._key(question), question.video
        options = split_options(question)

        def share(option: str) -> float:
            offered, right = (
                counts[name, option] - counts[name, option, video]
                for counts in (self._offered, self._right)
            )
            return (right + 1 / len(options)) / (offered + 1)

        if not options:
            return ""
        return max(options, key=lambda pair: share(pair[1]))[0]
