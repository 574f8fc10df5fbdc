import pytest
from hypothesis import given
from hypothesis import strategies as st

from vica_jax.data.video import sample_frames, time_instruction
from vica_jax.eval.prompts import (
    PROFILES,
    MissingOptionsError,
    PromptError,
    bare_prompt,
    default_max_new_tokens,
    user_turn,
)
from vica_jax.eval.question import TYPES, Kind, Question

COUNT = {
    "question_type": "object_counting",
    "question": "How many table(s) are in this room?",
    "options": None,
}
CHOICE = {
    "question_type": "camera_movement_direction",
    "question": "Where to?",
    "options": ["A. left", "B. right"],
}
POST = {
    "official": "Please answer the question using a single word or phrase.",
    "gemini_api": "Do not response anything other than a single number!",
    "gpt4v": "Do not response anything other than a single number!",
}


@pytest.mark.parametrize("profile", POST)
def test_official_prompts(profile: str):
    assert bare_prompt(profile, COUNT) == (
        f"These are frames of a video.\n{COUNT['question']}\n{POST[profile]}"
    )
    assert bare_prompt(profile, CHOICE) == (
        "These are frames of a video.\nWhere to?\nOptions:\nA. left\nB. right\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_vica_readme_prompt():
    assert user_turn("vica_readme", CHOICE) == (
        "<image>\n\n\nThese are frames of a video.\n\nQuestion: Where to?\nA. left\n"
        "B. right\nAnswer with the option\u2019s letter from the given choices "
        "directly.\n"
    )
    assert user_turn("vica_readme", COUNT).endswith(f"room?\n{POST['official']}\n")
    # Options count, not the type; an empty list leaves an empty line.
    assert "\u2019s letter" in user_turn("vica_readme", COUNT | {"options": ["A. 1"]})
    empty = user_turn("vica_readme", CHOICE | {"options": []})
    assert "Question: Where to?\n\nAnswer with the option\u2019s" in empty


def test_spatial_mllm_has_no_first_line():
    official = bare_prompt("official", CHOICE)
    assert bare_prompt("spatial_mllm", CHOICE) == official.split("\n", 1)[1]
    with pytest.raises(MissingOptionsError, match="without options"):
        bare_prompt("spatial_mllm", CHOICE | {"options": []})


def test_options_of_official_prompts():
    assert bare_prompt("official", CHOICE | {"options": []}) == (
        "These are frames of a video.\nWhere to?\nOptions:\n\n"
        "Answer with the option's letter from the given choices directly."
    )
    with pytest.raises(TypeError) as caught:
        bare_prompt("official", CHOICE | {"options": None})
    assert isinstance(caught.value, PromptError)
    # Numbers of VSTI-Bench carry options, which its code leaves out.
    with_options = COUNT | {"options": ["A. 1", "B. 2"]}
    assert bare_prompt("official", with_options) == bare_prompt("official", COUNT)


def test_unknown_types_and_profiles():
    for question_type in ("camera_obj_rel_dir", "object_rel_direction", None):
        doc = COUNT | {"question_type": question_type}
        with pytest.raises(PromptError, match="unknown question type"):
            bare_prompt("official", doc)
    with pytest.raises(PromptError, match="unknown prompt profile 'vica'"):
        user_turn("vica", COUNT)
    with pytest.raises(PromptError, match="unknown prompt profile"):
        default_max_new_tokens("")


def test_place_of_the_time_instruction():
    said = time_instruction(sample_frames(60, 30.0, num_frames=2))
    assert said.startswith("The video lasts for 2.00 seconds, and 2 frames are ")
    assert "0.00s,1.97s.Please answer the following questions" in said
    bare = bare_prompt("official", COUNT)
    turn = user_turn("official", COUNT, time_instruction=said)
    assert turn == f"<image>\n{said}\n{bare}"
    assert user_turn("official", COUNT) == f"<image>\n{bare}"
    readme = user_turn("vica_readme", COUNT, time_instruction=said)
    assert readme.startswith(f"<image>\n{said}\n\nThese are frames of a video.\n\n")


@given(
    st.sampled_from(PROFILES),
    st.sampled_from([*TYPES["vsibench"], *TYPES["vstibench"], "scanqa"]),
    st.text(min_size=1, max_size=30).filter(str.strip),
    st.lists(st.text(max_size=5), min_size=1, max_size=4),
)
def test_questions_and_rows_make_the_same_prompt(profile, question_type, text, options):
    kinds: dict[str, Kind] = {
        **TYPES["vsibench"],
        **TYPES["vstibench"],
        **TYPES["scanqa"],
    }
    kind = kinds[question_type]
    row = {
        "question_type": question_type,
        "question": text,
        "options": options if kind == "choice" else None,
    }
    question = Question(
        id="1",
        question_type=question_type,
        kind=kind,
        question=text,
        options=tuple(options) if kind == "choice" else None,
        video="a.mp4",
        doc=row,
    )
    turn = user_turn(profile, question)
    assert turn == user_turn(profile, row)
    assert turn.startswith("<image>\n") and text in turn
    if profile == "vica_readme" and kind != "text":
        assert turn == f"<image>\n\n\n{bare_prompt(profile, question)}"
    else:
        assert turn == f"<image>\n{bare_prompt(profile, question)}"
    if kind == "text":
        assert turn == f"<image>\n{text}"
    assert user_turn(profile, question, with_media=False).count("<image>") == 0


def test_budgets():
    budgets = {profile: default_max_new_tokens(profile) for profile in PROFILES}
    assert budgets == {
        "vica_readme": 1024,
        "official": 16,
        "gemini_api": 16,
        "gpt4v": 16,
        "spatial_mllm": 1024,
    }
