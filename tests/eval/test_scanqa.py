import math
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vica_jax.eval.scanqa import (
    ScanqaError,
    UnknownIdError,
    bleu,
    cider,
    clean_answer,
    exact_match,
    reference_id,
    rouge_l,
    score_scanqa,
)

WORDS = ("a", "brown", "chair", "on", "the", "left", "2")
TEXTS = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
REFERENCES = st.lists(TEXTS, min_size=1, max_size=3)


def test_bleu_by_hand():
    # 3 of 4 words, 1 of 3 pairs; both references are one word off: the shorter counts.
    one, two, three, four = bleu(["a b x c"], [["a b c", "a b c d e"]])
    assert one == pytest.approx(3 / 4)
    assert two == pytest.approx(math.sqrt(3 / 4 * 1 / 3))
    assert three < 1e-4 and four < 1e-3
    # Clipped counts, and too short: exp(1 - 4/2).
    assert bleu(["a a"], [["a b c d"]])[0] == pytest.approx(1 / 2 * math.exp(-1))
    assert bleu([""], [["a"]]) == (0.0, 0.0, 0.0, 0.0)


def test_rouge_by_hand():
    # Common to both: "a c"; precision 2/3, recall 2/2, beta 1.2.
    expected = 2.44 * (2 / 3) / (1 + 1.44 * 2 / 3)
    assert rouge_l(["a b c"], [["a c"]]) == [pytest.approx(expected)]
    # Best precision and best recall from different references.
    best = 2.44 * 1 * 1 / (1 + 1.44)
    assert rouge_l(["a b"], [["a", "a b c d"]]) == [pytest.approx(best)]
    # Single spaces part tokens: two spaces hold an empty one, as an empty text is.
    assert rouge_l(["", "a  b"], [[""], ["a b"]])[0] == 1.0
    assert rouge_l(["a  b"], [["a b"]])[0] < 1.0
    assert rouge_l(["x"], [["a b"]]) == [0.0]


def test_cider_by_hand():
    # Words of their own in each of two items: idf ln 2, cosine 1; only one-word n-grams
    # exist, so one order of four counts.
    assert cider(["left", "x"], [["left"], ["right"]]) == [10 / 4, 0.0]
    # Three words: three orders; the mean over references.
    same = cider(["a b c", "z"], [["a b c", "q"], ["r"]])
    assert same[0] == pytest.approx(10 * 3 / 4 / 2)
    # One bigram more than the reference.
    longer = cider(["a b", "z"], [["a"], ["r"]])[0]
    both = math.log(2) ** 2 / (math.log(2) ** 2 * math.sqrt(2))
    assert longer == pytest.approx(10 * both / 4 * math.exp(-1 / 72))
    assert cider(["left"], [["left"]]) == [0.0]  # ln 1 = 0
    with pytest.raises(ScanqaError, match="no reference answer has a word"):
        cider(["a"], [[" ", ""]])


@given(st.lists(st.tuples(TEXTS, REFERENCES), min_size=2, max_size=5))
def test_ranges_and_copies(rows):
    candidates = [text for text, _ in rows]
    references = [texts for _, texts in rows]
    if not any(text.split() for texts in references for text in texts):
        return
    for score in (*bleu(candidates, references), *rouge_l(candidates, references)):
        assert -1e-12 <= score <= 1 + 1e-6
    assert all(0 <= score <= 10 + 1e-9 for score in cider(candidates, references))
    assert rouge_l([texts[0] for texts in references], references) == [
        pytest.approx(1.0)
    ] * len(rows)


def test_duplicates_and_ids():
    references = {"v-0_0": ["brown"], "v-1_0": ["on the left", "left"]}
    predictions = [
        (reference_id("v-0_3"), "brown"),
        (reference_id("v-1_1"), "left."),
        (reference_id("v-0_1"), "white"),
    ]
    assert [name for name, _ in predictions] == ["v-0_0", "v-1_0", "v-0_0"]
    assert reference_id("17") == "0"
    scores = score_scanqa(references, predictions)
    assert scores.count == 2  # the last of v-0_0 counts, all three for EM
    assert scores.em == pytest.approx(1 / 3)  # "left." is not "left"
    assert scores.bleu[0] == pytest.approx(0.5)
    assert scores.rouge_l == pytest.approx(0.5)
    assert scores.meteor is None
    assert score_scanqa({"7": ["a"], "8": ["b"]}, [("7", "a")]).em == 1.0


def test_what_cannot_be_scored():
    with pytest.raises(ValueError, match="no ScanQA predictions"):
        score_scanqa({"a": ["x"]}, [])
    with pytest.raises(KeyError) as caught:
        score_scanqa({"a": ["x"]}, [("b", "x")])
    assert isinstance(caught.value, UnknownIdError)
    assert str(caught.value) == "a prediction for 'b', which has no reference answers"
    with pytest.raises(ScanqaError, match="'a' has an empty list"):
        score_scanqa({"a": []}, [("a", "x")])


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  The  Brown chair. ", "brown chair"),
        ("2 chairs!", "two chairs"),
        ("None", "zero"),
        ("to the letf", "to left"),
        ("a tv", "TV"),
        ("5 oclock", "five o'clock"),
        ("mat2", "mat"),
        ("backwards", "backward"),
        ("23", "twenty-three"),
        ("21", "21"),
        ("\u00e7a", "a"),
    ],
)
def test_clean_answer(text: str, cleaned: str):
    assert clean_answer(text) == cleaned


@pytest.mark.parametrize(
    ("answers", "said", "found"),
    [
        (["Brown.", "white"], "brown", (1, 1)),
        (["white", "brown"], "the brown", (1, 1)),
        (["brown chair", "brown"], "brown", (0, 1)),  # the first of either kind decides
        (["left"], "on the left side", (0, 1)),
        (["x"], "", (0, 1)),
        (["two chairs"], "2chairs", (0, 0)),
        (["white"], "brown", (0, 0)),
        ([], "brown", (0, 0)),
    ],
)
def test_exact_match(answers, said, found):
    assert exact_match(answers, said) == found


# ------------------------------------------------------------------------------ METEOR
FAKE_JAVA = """#!{python}
import sys
if "broken" in sys.argv[3]:
    sys.exit("no manifest")
seen = 0
for line in sys.stdin:
    kind, *fields = line.rstrip("\\n").split(" ||| ")
    if kind == "SCORE":
        seen += 1
        print(len(fields), fields[-1].replace(" ", "_"), flush=True)
    else:
        for field in fields:
            print(0.1)
        print(seen + len(fields) / 10, flush=True)
"""


@pytest.fixture
def fake_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that speaks METEOR's protocol, in the place of Java."""
    java = tmp_path / "java"
    java.write_text(FAKE_JAVA.format(python=sys.executable))
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    jar = tmp_path / "meteor-1.5.jar"
    jar.touch()
    return jar


def test_meteor(fake_java: Path):
    references = {"a": ["x y", "line\nbreak"], "b": ["z"]}
    predictions = [("a", "x ||| y"), ("b", "z")]
    scores = score_scanqa(references, predictions, meteor_jar=fake_java)
    assert scores.meteor == 2.2  # two SCORE lines, two statistics


def test_meteor_that_fails(fake_java: Path, monkeypatch: pytest.MonkeyPatch):
    references, predictions = {"a": ["x"]}, [("a", "x")]
    broken = fake_java.rename(fake_java.with_name("broken.jar"))
    with pytest.raises(ScanqaError, match=r"broken.jar: METEOR ended early"):
        score_scanqa(references, predictions, meteor_jar=broken)
    with pytest.raises(ScanqaError, match=r"none.jar: no such file"):
        score_scanqa(
            references, predictions, meteor_jar=fake_java.with_name("none.jar")
        )
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ScanqaError, match="needs java on the PATH"):
        score_scanqa(references, predictions, meteor_jar=broken)
