import pytest
from hypothesis import given
from hypothesis import strategies as st

from vica_jax.eval.thinking import canonical_answer, final_segment

ROOM = {"question_type": "room_size_estimation", "ground_truth": "10.5"}
SIDE = {"question_type": "route_planning", "options": ["A. left", "B. right"]}
THOUGHTS = (
    "<|im_start|>think\nThe floor is \\boxed{7} wide.\n"
    "<|im_start|>response\nAbout ten.\n<|im_start|>final\n"
)


@pytest.mark.parametrize(
    ("segment", "answer"),
    [
        (r"\[ \boxed{\text{10-11 square meters}} \]<|im_end|>", "10-11 square meters"),
        (r"\[\boxed{B}\]", "B"),
        ("## Final Answer\n\\[\n\\boxed{\\text{B. right}}\n\\]\n", "B. right"),
        (r"\boxed{A} or rather \boxed{\text{B}}", "B"),
        (r"\boxed{1.5 \, \text{m}}", "1.5 m"),
        (r"\boxed{3}<|im_end|>\boxed{4}", "3"),
        (r"\boxed{3}<|im_start|>final \boxed{4}", "4"),
        ("10 square meters", None),
        (r"\boxed{\text{10}", None),
        (r"\boxed{A} or rather \boxed{\text{B}", None),
        (r"\boxed{\text{}}", None),
        (r"\boxed 3", None),
        (r"\boxed{3}<|im_start|>final cut off", None),
    ],
)
def test_final_segment(segment: str, answer: str | None):
    assert final_segment(THOUGHTS + segment) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        r"\boxed{B}",
        r"final \boxed{B}",
        r"<|im_start|>finally \boxed{B}",
        r"<|im_start|>think \boxed{B}",
        THOUGHTS,
    ],
)
def test_without_a_final_segment(text: str):
    assert final_segment(text) is None
    assert canonical_answer(SIDE, text) is None


@pytest.mark.parametrize(
    ("doc", "boxed", "answer"),
    [
        (ROOM, r"\text{10-11 square meters}", "10.5"),
        (ROOM, r"\text{about 25 m}^2", "25"),
        (ROOM, r"\text{1,200 cm}", "1200"),  # stripped, not converted
        (ROOM, r"\text{cannot be told}", None),
        (SIDE, r"\text{B. right}", "B"),
        (SIDE, r"\text{to the left}", "A"),
        (SIDE, r"\text{neither}", None),
    ],
)
def test_canonical_answers(doc: dict, boxed: str, answer: str | None):
    assert canonical_answer(doc, rf"{THOUGHTS}\[ \boxed{{{boxed}}} \]") == answer


def test_scanqa_keeps_its_text():
    text = THOUGHTS + r"\boxed{\text{next to the bed}}"
    assert canonical_answer({}, text, benchmark="scanqa") == "next to the bed"


@given(st.text(max_size=30), st.text("0123456789.", min_size=1, max_size=6))
def test_only_the_final_segment_is_read(thoughts: str, boxed: str):
    text = f"<|im_start|>think{thoughts}<|im_start|>final\\boxed{{{boxed}}}"
    assert final_segment(text) == boxed
