"""The answer of a thinking checkpoint, taken from its final segment by fixed rules.

Such a text has three segments, each begun by a special token and its name
(``<|im_start|>think``, ``<|im_start|>response``, ``<|im_start|>final``), and its answer
stands in the last as ``\\[ \\boxed{\\text{10-11 square meters}} \\]``; the text must
be decoded with its special tokens kept.

``final_segment``:

* the final segment begins after the last ``<|im_start|>final`` (white space may stand
  between the two; no letter or digit may follow) and ends at the next special token
  ``<|...|>`` or with the text;
* its last ``\\boxed{`` must close; inside, ``\\text{...}`` is taken off and what is
  left is the answer, unless it is empty;
* anything else is malformed: a missing segment, no box, a box left open or empty.

The paper then lets a language model make a number, an option or NULL of that text.
``canonical_answer`` is a deterministic substitute, not that model: a number by
``lenient.read_number`` without conversion (units stripped, ranges averaged), a letter
by ``lenient.read_choice``, None (NULL) where neither is found. What it gives goes to
the official scorer.
"""

import re
from collections.abc import Mapping
from typing import Any

from vica_jax.eval.lenient import find_boxed, plain_latex, read_choice, read_number
from vica_jax.eval.scores import kind_of


def final_segment(text: str) -> str | None:
    """The boxed answer of the last final segment; None where it is malformed."""
    segments = re.split(r"<\|im_start\|>\s*final(?![A-Za-z0-9])", text)
    if len(segments) < 2:
        return None
    segment = re.split(r"<\|[^|<>]*\|>", segments[-1])[0]
    # The last box that opens must be one of those that close.
    opened = [match.start() for match in re.finditer(r"\\boxed\s*\{", segment)]
    boxed = find_boxed(segment[opened[-1] :]) if opened else []
    return (plain_latex(boxed[0]) if boxed else "") or None


def canonical_answer(
    doc: Mapping[str, Any], text: str, *, benchmark: str = "vsibench"
) -> str | None:
    """What the official scorer is given: a letter, a decimal number, or ScanQA's text.

    None where the final segment is malformed or says neither: such a question counts
    as not answered.

    Raises:
      ScoreError: an unknown benchmark or question type.
    """
    kind, answer = kind_of(doc, benchmark), final_segment(text)
    if answer is None or kind == "text":
        return answer
    if kind == "choice":
        return read_choice(answer, doc.get("options") or ())
    number = read_number(answer)
    return None if number is None else f"{number:.12g}"
