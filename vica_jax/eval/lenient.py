"""What an answer means, by forgiving rules: an extra column beside the official score.

An answer is first unwrapped: special tokens, quotes and Markdown marks go, the last
``<answer>...</answer>`` or else the last ``\\boxed{...}`` counts where there is one,
LaTeX commands and braces go, white space is collapsed.

A choice is read by the first rule that names one of the options:

1. the official reading (text before the first space, full stops off) is a letter;
2. rules 3 to 6 on the text after the last "answer is", "answer:" or "answer =";
3. the whole text is a letter, bare or as (B), [B], B), B., B: or "option B", or it is
   the text of one option;
4. it begins with a letter in brackets or followed by one of ``) . : , ; -``; a small
   letter needs the bracket or full stop;
5. it contains the text of exactly one option, as whole words and ignoring case; an
   option whose text lies within that of another one found does not count;
6. it contains exactly one of the letters as a capital standing alone ("A" before a
   small letter is an article).

A number is read like this:

1. all of the text as ``float``, if that is finite;
2. else, after the last "answer is", "answer:" or "answer =" if a number follows;
3. number words ("twenty-five", "two hundred", "three and a half") count only where no
   digits stand; thousands may have commas ("1,200"); a/b is a fraction;
4. "10-11", "10 to 11", "between 10 and 11" are their mean;
5. of several numbers, the first with a unit of the wanted dimension, else the first;
6. a unit of length or area is converted to the unit of the question (metres for
   distances, centimetres for object sizes, square metres for rooms); without a unit, or
   with one of another dimension, the number stands as it is.

Scores are then the official ones, in their safe form. Deterministic; no model reads.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vica_jax.eval.question import find_letters
from vica_jax.eval.scanqa import exact_match
from vica_jax.eval.scores import (
    ACCURACY,
    MRA,
    first,
    kind_of,
    mra,
    read_float,
)

EXACT_MATCH_REFINED = "EM-R"

# The unit that questions of a type ask for; others (counts) have none.
UNITS = {
    "object_abs_distance": "m",
    "object_size_estimation": "cm",
    "room_size_estimation": "m2",
    "camera_obj_abs_dist": "m",
    "camera_displacement": "m",
    "camera_obj_dist_change": "m",
}


def score_lenient(
    doc: Mapping[str, Any], prediction: str | None, *, benchmark: str = "vsibench"
) -> tuple[str, float]:
    """Metric and score (0 to 1) of one answer by the rules above.

    ScanQA: the refined exact match of ``eval/scanqa``. No prediction scores 0.

    Raises:
      ScoreError: an unknown benchmark or question type.
      KeyError: the row lacks its type or its truth.
    """
    kind = kind_of(doc, benchmark)
    metric = {"choice": ACCURACY, "number": MRA, "text": EXACT_MATCH_REFINED}[kind]
    if prediction is None:
        return metric, 0.0
    if kind == "text":
        return metric, float(exact_match(doc["metadata"]["answers"], prediction)[1])
    if kind == "choice":
        truth = str(doc["mc_answer" if benchmark == "vstibench" else "ground_truth"])
        said = read_choice(prediction, doc.get("options") or ()) or first(prediction)
        return metric, float(said.lower() == truth.strip().lower())
    number = read_number(prediction, unit=UNITS.get(doc["question_type"]))
    truth = read_float(doc["ground_truth"])
    if truth == 0 and number is not None:
        return metric, float(number == 0)
    return metric, mra(number, truth)


# ------------------------------------------------------------------------------ unwrap
def unwrap(text: str) -> str:
    """The answer without what is wrapped around it (first paragraph of this file)."""
    tagged = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL | re.IGNORECASE)
    if tagged:
        text = tagged[-1]
    text = re.sub(r"<\|[^|<>]*\|>", " ", text)
    boxed = find_boxed(text)
    return plain_latex(boxed[-1] if boxed else text)


def find_boxed(text: str) -> list[str]:
    """What stands in each ``\\boxed{...}`` whose braces close, in order."""
    found, place = [], 0
    while opening := re.compile(r"\\boxed\s*\{").search(text, place):
        place = opening.end()
        depth = 1
        for end in range(place, len(text)):
            if text[end] in "{}" and text[end - 1] != "\\":
                depth += 1 if text[end] == "{" else -1
            if not depth:
                found.append(text[place:end])
                place = end + 1
                break
    return found


def plain_latex(text: str) -> str:
    """Text without the LaTeX and Markdown around its words."""
    text = re.sub(r"\\d?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1/\2", text)
    text = re.sub(r"\\(?:text\w*|math\w+|boxed|mbox)\s*\{", "{", text)
    text = text.replace(r"\times", "x").replace(r"\approx", "~")
    text = re.sub(r"\\[()\[\],;:! ]", " ", text)  # delimiters and spaces of LaTeX
    text = text.replace("\\%", "%").replace("\\$", "")
    text = re.sub(r"[{}$`\"\u201c\u201d]|\*+|(?<!\w)_+|_+(?!\w)|^#+", "", text)
    return " ".join(text.split())


def _after_answer(text: str) -> str | None:
    """What follows the last announcement of an answer."""
    announced = r"\banswer(?:\s+is\b\s*[:=]?|\s*[:=])\s*"
    found = list(re.finditer(announced, text, re.IGNORECASE))
    return text[found[-1].end() :] if found else None


# ------------------------------------------------------------------------------ choice
def read_choice(prediction: str, options: Sequence[str]) -> str | None:
    """The letter (as the options have it) that an answer names, or None."""
    letters = find_letters(options)
    if len(letters) != len(options):
        return None
    texts = {
        letter: option[option.index(letter) + 1 :].lstrip(".):").strip()
        for letter, option in zip(letters, options, strict=True)
    }
    official = first(prediction).upper()
    if official in texts:
        return official
    text = unwrap(prediction)
    for part in (_after_answer(text), text):
        if part and (letter := _named(part, texts)):
            return letter
    return None


def _named(text: str, texts: Mapping[str, str]) -> str | None:
    """Rules 3 to 6."""
    alone = re.fullmatch(
        r"(?:(?:option|choice)\s*)?[(\[]?([a-z])[)\]]?[.:,;!]*", text, re.IGNORECASE
    )
    if alone and alone[1].upper() in texts:
        return alone[1].upper()
    bare = text.rstrip(".!").casefold()
    same = [letter for letter, option in texts.items() if option.casefold() == bare]
    if len(same) == 1:
        return same[0]
    leading = re.match(
        r"(?:(?:option|choice)\s*)?"
        r"(?:[(\[]([A-Za-z])[)\]]|([A-Z])(?:[).:,;]|\s*-\s|$)|([a-z])[).])",
        text,
        0,
    )
    if leading and (letter := "".join(filter(None, leading.groups())).upper()) in texts:
        return letter
    found = {
        letter: option
        for letter, option in texts.items()
        if option and _contains(text, option)
    }
    found = [
        letter
        for letter, option in found.items()
        if not any(
            option != other and _contains(other, option) for other in found.values()
        )
    ]
    if len(found) == 1:
        return found[0]
    capitals = re.findall(r"(?<![\w'-])([A-Z])(?![\w'-])(?!(?<=A)\s+[a-z])", text)
    named = {letter for letter in capitals if letter in texts}
    return named.pop() if len(named) == 1 else None


def _contains(text: str, option: str) -> bool:
    pattern = rf"(?<![\w-]){re.escape(option)}(?![\w-])"
    return re.search(pattern, text, re.IGNORECASE) is not None


# ------------------------------------------------------------------------------ number
_METRES = {
    "km|kilomet(?:er|re)s?": 1000.0,
    "cm|centimet(?:er|re)s?": 0.01,
    "mm|millimet(?:er|re)s?": 0.001,
    "m|met(?:er|re)s?": 1.0,
    "ft|feet|foot": 0.3048,
    "inch(?:es)?": 0.0254,
    "yd|yards?": 0.9144,
}
_WANTED = {"m": (1, 1.0), "cm": (1, 0.01), "m2": (2, 1.0)}  # dimension, metres
_WORD = "|".join(_METRES)
_UNIT = (
    rf"(?P<square>sq(?:uare|\.)?[\s-]*)?(?P<word>{_WORD})"
    r"(?P<power>\s*\^?\s*2|\u00b2)?(?![A-Za-z0-9])"
)
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+|\.(?!\w))?|\.\d+"
_NUMBER = (
    rf"(?<![\w.])[-+\u2212]?(?:{_DIGITS})(?:e[-+]?\d+\b)?(?:\s*/\s*\d+(?!\d*\.\d))?"
)
_UNSIGNED = rf"(?:{_DIGITS})(?:e[-+]?\d+\b)?"
_QUANTITY = re.compile(
    rf"(?P<low>{_NUMBER})"
    rf"(?:\s*(?:{_WORD})?\s*(?:-|\u2013|\u2014|\u2212|~|\bto\b|\band\b)\s*"
    rf"(?P<high>{_UNSIGNED}))?"
    rf"(?:[\s-]*{_UNIT})?",
    re.IGNORECASE,
)

_VALUES = {
    word: value
    for values, words in (
        (range(0, 10), "zero one two three four five six seven eight nine"),
        (range(10, 15), "ten eleven twelve thirteen fourteen"),
        (range(15, 20), "fifteen sixteen seventeen eighteen nineteen"),
        (range(20, 60, 10), "twenty thirty forty fifty"),
        (range(60, 100, 10), "sixty seventy eighty ninety"),
    )
    for value, word in zip(values, words.split(), strict=True)
}
_ONES = "|".join(word for word, value in _VALUES.items() if 1 <= value < 10)
_TEENS = "|".join(word for word, value in _VALUES.items() if 10 <= value < 20)
_TENS = "|".join(word for word, value in _VALUES.items() if value >= 20)
_SMALL = rf"(?:(?:{_TENS})(?:[\s-](?:{_ONES}))?|{_TEENS}|{_ONES})"
_BELOW_1000 = rf"(?:(?:{_ONES}|a)[\s-]hundred(?:\s+(?:and\s+)?{_SMALL})?|{_SMALL})"
_WORDS = re.compile(
    rf"\b(?:(?:{_BELOW_1000}|a)[\s-]thousand(?:,?\s+(?:and\s+)?{_BELOW_1000})?"
    rf"|{_BELOW_1000}|zero)(?P<half>\s+and\s+a\s+half)?\b|\bhalf\b(?:\s+an?\b)?"
)


def read_number(prediction: str, *, unit: str | None = None) -> float | None:
    """The number that an answer states, in ``unit`` (m, cm, m2), or None.

    Without ``unit`` no unit is converted: all are stripped.
    """
    if (whole := read_float(prediction)) is not None and math.isfinite(whole):
        return whole
    text = unwrap(prediction)
    for part in (_after_answer(text), text):
        for candidate in (part, part and _digits_for_words(part)):
            if candidate and (found := _quantities(candidate)):
                return _pick(found, unit)
    return None


def _quantities(text: str) -> list[tuple[float, int, float]]:
    """Every number with its dimension (0: no unit) and its unit's metres."""
    found = []
    for match in _QUANTITY.finditer(text):
        value = _value(match["low"])
        high, joined = match["high"], text[match.end("low") : match.start("high")]
        if high and re.search(r"\band\b", joined, re.IGNORECASE):
            before = text[: match.start()]
            if not re.search(r"\bbetween\s*$", before, re.IGNORECASE):
                high = None  # "3 and 4" is no range
        if value is not None and high and (other := _value(high)) is not None:
            value = (value + other) / 2
        if value is None:
            continue
        dimension, metres = 0, 1.0
        if match["word"]:
            dimension = 2 if match["square"] or match["power"] else 1
            metres = next(
                scale
                for words, scale in _METRES.items()
                if re.fullmatch(words, match["word"], re.IGNORECASE)
            )
        found.append((value, dimension, metres))
    return found


def _value(text: str) -> float | None:
    text = text.replace(",", "").replace("\u2212", "-")
    top, _, bottom = text.partition("/")
    number, divisor = read_float(top), read_float(bottom) if bottom else 1.0
    if number is None or not divisor or not math.isfinite(number / divisor):
        return None
    return number / divisor


def _pick(found: Sequence[tuple[float, int, float]], unit: str | None) -> float:
    if unit is None:
        return found[0][0]
    dimension, scale = _WANTED[unit]
    for value, its_dimension, metres in found:
        if its_dimension == dimension:
            return value * (metres / scale) ** dimension
    return found[0][0]


def _digits_for_words(text: str) -> str:
    return _WORDS.sub(lambda match: f"{_word_value(match[0]):g}", text.lower())


def _word_value(words: str) -> float:
    if words.startswith("half"):
        return 0.5
    total = part = 0.0
    for word in re.findall(r"[a-z]+", words):
        if word == "thousand":
            total, part = total + max(part, 1) * 1000, 0
        elif word == "hundred":
            part = max(part, 1) * 100
        elif word == "half":
            part += 0.5
        else:
            part += _VALUES.get(word, 0)  # "and" and "a" add nothing
    return total + part
