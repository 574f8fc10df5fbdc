import pytest
from hypothesis import given
from hypothesis import strategies as st

from vica_jax.eval.lenient import (
    find_boxed,
    read_choice,
    read_number,
    score_lenient,
    unwrap,
)
from vica_jax.eval.scores import ScoreError, score_official

SIDES = ["A. left", "B. right", "C. back"]
CORNERS = ["A. front-left", "B. front-right", "C. back-left", "D. back-right"]
ORDERS = ["A. chair, table, oven", "B. table, chair, oven"]
THINGS = ["A. tv", "B. trash bin", "C. table", "D. bin"]


@pytest.mark.parametrize(
    ("options", "said", "letter"),
    [
        (SIDES, "(B)", "B"),
        (SIDES, "[c]", "C"),
        (SIDES, "B:", "B"),
        (SIDES, " B", "B"),
        (SIDES, "**B**", "B"),
        (SIDES, "B, because it is near", "B"),
        (SIDES, "B\nbecause it is near", "B"),
        (SIDES, "b) right", "B"),
        (SIDES, "Option C: back", "C"),
        (SIDES, "The answer is B", "B"),
        (SIDES, "The answer is (b).", "B"),
        (SIDES, "Not left. Answer: **C. back**", "C"),
        (SIDES, "<answer>B</answer>", "B"),
        (SIDES, r"\[ \boxed{\text{B}} \]", "B"),
        (SIDES, "Final answer: B<|im_end|>", "B"),
        (SIDES, "I think B", "B"),
        (SIDES, "Right.", "B"),
        (SIDES, "It is to the right", "B"),
        (SIDES, "The answer isn't left but right", None),
        (SIDES, "left or right", None),
        (SIDES, "on a chair", None),
        (SIDES, "E", None),
        (SIDES, "", None),
        (CORNERS, "It is front-left.", "A"),
        (CORNERS, "back-right direction", "D"),
        (CORNERS, "left", None),
        (ORDERS, "The order is: table, chair, oven", "B"),
        (THINGS, "the bin", "D"),
        (THINGS, "next to the trash bin", "B"),
        (THINGS, "TV", "A"),
    ],
)
def test_choices(options: list[str], said: str, letter: str | None):
    assert read_choice(said, options) == letter


@pytest.mark.parametrize(
    ("said", "unit", "value"),
    [
        ("two", None, 2),
        ("There are twenty-five chairs.", None, 25),
        ("one hundred and twenty", None, 120),
        ("two thousand five hundred", None, 2500),
        ("three and a half meters", "m", 3.5),
        ("half a meter", "m", 0.5),
        ("the one on the left is 5", None, 5),
        ("1,200", None, 1200),
        ("12,345.5 cm", "cm", 12345.5),
        ("$4", None, 4),
        ("~2", None, 2),
        ("-.5 m", "m", -0.5),
        ("1/2", None, 0.5),
        (r"\frac{1}{2}", None, 0.5),
        ("1/0", None, None),
        ("3.5m", "m", 3.5),
        ("350 cm", "m", 3.5),
        ("350 cm", None, 350),
        ("0.8 meters", "cm", 80),
        ("5-inch", "cm", 12.7),
        ("100 square feet", "m2", 9.290304),
        (r"\boxed{10.5 \text{ m}^2}", "m2", 10.5),
        ("5 m by 4 m, so the area is 20 square meters", "m2", 20),
        ("3 m", "m2", 3),
        ("10-11 square meters", "m2", 10.5),
        ("2\u20133 m", "m", 2.5),
        ("2 m to 3 m", "m", 2.5),
        ("between 10 and 11", None, 10.5),
        ("3 and 4", None, 3),
        ("Room 3 has 5 m", "m", 5),
        ("5 min", "m", 5),
        ("First 7, but the answer is 9 chairs", None, 9),
        ("4\nchairs", None, 4),
        ("nan", None, None),
        ("inf", None, None),
        ("none", None, None),
        ("x2", None, None),
        ("", None, None),
    ],
)
def test_numbers(said: str, unit: str | None, value: float | None):
    found = read_number(said, unit=unit)
    assert found == (None if value is None else pytest.approx(value, rel=1e-12))


@given(st.floats(-1e6, 1e6), st.sampled_from([None, "m", "cm", "m2"]))
def test_plain_numbers_are_read_as_python_reads_them(value: float, unit):
    for text in (repr(value), f"{value:.2f}", f"{value:e}"):
        assert read_number(text, unit=unit) == float(text)


@given(st.integers(0, 10**9))
def test_thousands_separators(value: int):
    assert read_number(f"about {value:,} of them") == value


@given(st.text(max_size=40), st.sampled_from([SIDES, THINGS]))
def test_a_choice_that_is_officially_right_stays_right(said: str, options):
    doc = {"question_type": "route_planning", "options": options}
    for letter in ("A", "B", "C"):
        doc["ground_truth"] = letter
        for text in (said, f"{letter}. {said}", f"{letter.lower()} {said}"):
            lenient = score_lenient(doc, text)
            assert lenient[1] >= score_official(doc, text)[1]
            assert lenient[0] == "accuracy"


ALPHABET = "0123456789.,-+/e ~abmtwoABC()[]{}\\<>|\n$\u00b2"


@given(st.text(st.sampled_from(ALPHABET), max_size=60))
def test_any_text_is_taken(text: str):
    number = read_number(text, unit="m")
    assert number is None or isinstance(number, float)
    assert read_choice(text, SIDES) in (None, "A", "B", "C")
    assert unwrap(unwrap(text)) is not None


def test_lenient_scores():
    counting = {"question_type": "object_counting", "ground_truth": "2"}
    assert score_lenient(counting, "two chairs") == ("MRA:.5:.95:.05", 1.0)
    assert score_lenient(counting, None) == ("MRA:.5:.95:.05", 0.0)
    size = {"question_type": "object_size_estimation", "ground_truth": "150"}
    assert score_lenient(size, "1.5 m") == ("MRA:.5:.95:.05", 1.0)
    room = {"question_type": "room_size_estimation", "ground_truth": "0"}
    assert score_lenient(room, "0 square meters")[1] == 1.0
    assert score_lenient(room, "1 square meter")[1] == 0.0
    moved = {"question_type": "camera_displacement", "ground_truth": 1.5}
    assert score_lenient(moved, "150cm", benchmark="vstibench")[1] == 1.0
    way = {
        "question_type": "camera_movement_direction",
        "options": SIDES,
        "mc_answer": "B",
        "ground_truth": "right",
    }
    assert score_lenient(way, "to the right", benchmark="vstibench")[1] == 1.0
    assert score_lenient({**way, "options": None}, "B.", benchmark="vstibench")[1] == 1
    answers = {"metadata": {"answers": ["brown chair"]}}
    assert score_lenient(answers, "Brown.", benchmark="scanqa") == ("EM-R", 1.0)
    with pytest.raises(ScoreError):
        score_lenient(way, "B")


def test_boxes_close():
    assert find_boxed(r"\boxed{a{b}} \boxed {\{} \boxed{c") == ["a{b}", r"\{"]
