import copy
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vica_jax.eval.recorded import Leaf, leaves
from vica_jax.eval.score_cases import CasesError, check_file
from vica_jax.eval.score_checkers import CHECKERS

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "goldens" / "vsibench.json"
RECORDED = json.loads(CASES.read_text())


@pytest.fixture
def cases() -> dict:
    return copy.deepcopy(RECORDED)


@pytest.fixture
def check(tmp_path: Path):
    """Check cases as a file; the sections by their names."""

    def check(cases, **only) -> dict:
        path = tmp_path / "cases.json"
        path.write_text(json.dumps(only or cases))
        return {section.name: section for section in check_file(path)}

    return check


def failures(sections: dict) -> list[str]:
    return [
        f"{name} {each.case}: {each.what}"
        for name, section in sections.items()
        for each in section.failures
    ]


def run(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.verify_scores", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


# ------------------------------------------------------------------- the recorded file
def test_every_recorded_case(cases, check):
    sections = check(cases)
    assert failures(sections) == []
    counts = {
        name: (section.cases, section.compared) for name, section in sections.items()
    }
    assert counts == {
        "items": (150, 412),
        "aggregates": (4, 10),
        "prompts": (10, 40),
        "frame_indices": (7, 21),
        "space_aware_sampling": (8, 10),
        "scanqa": (2, 10),
        "maxinfo_rect_maxvol": (4, 16),
    }
    assert all(not section.absent for section in sections.values())
    for section in sections.values():
        assert section.difference < 1e-9


def test_the_command(tmp_path: Path, cases):
    done = run(f"--cases={CASES}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1].startswith("PASS: 519 quantities equal")
    cases["items"][3]["expected"]["official"]["score"] = 1.0
    del cases["scanqa"], cases["items"][0]["fuzzy"]
    cases["prompts"][0]["vica_readme"] += "\ud800"  # no valid UTF-8: shown as ASCII
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(cases))
    done = run(f"--cases={path}")
    assert done.returncode == 1 and done.stderr == ""
    assert (
        "FAIL items public-0003: official.score: expected 1.0, got 0.0" in done.stdout
    )
    assert r"FAIL prompts 0: vica_readme from character 182: " in done.stdout
    assert "  absent: fuzzy (1)" in done.stdout
    assert "scanqa                absent" in done.stdout
    assert done.stdout.splitlines()[-1] == "FAIL: 2 failures; 508 quantities compared"


# ---------------------------------------------------------------- what is not recorded
def put(cases: dict, place: str, value: object) -> None:
    """Set what stands at a place like ``items/3/fuzzy``, or append to a list."""
    *parts, last = [int(part) if part.isdigit() else part for part in place.split("/")]
    node: Any = cases
    for part in parts:
        node = node[part]
    if isinstance(last, int) and last == len(node):
        node.append(value)
    else:
        node[last] = value


WRONG = [
    ("items/0/fuzzy", "A", "items public-0000: fuzzy: expected "),
    (
        "items/0/expected/official/metric",
        "MRA",
        "items public-0000: official.metric: expected ",
    ),
    (
        "items/46/expected/official/score",
        0.4 + 2e-9,
        "items public-0046: official.score: expected 0.400000002, got 0.4",
    ),
    (
        "items/46/expected/spatial_mllm/score",
        0.4 + 2e-6,
        "items public-0046: spatial_mllm.score: expected 0.400002, got 0.4",
    ),
    (
        "items/104/expected/official",
        {"error": "TypeError"},
        'items public-0104: official: expected {"error": "TypeError"}, got raised Zero',
    ),
    (
        "items/1/expected/official",
        {"error": "KeyError"},
        'items public-0001: official: expected {"error": "KeyError"}, got {"metric"',
    ),
    (
        "items/110/expected/spatial_mllm",
        {"cleaned_prediction": "4", "cleaned_gt": "4", "score": 1.0},
        "items public-0110: spatial_mllm: expected {",
    ),
    (
        "aggregates/0/expected/official/route_planning_accuracy",
        1.0,
        "aggregates public:all_types: official.route_planning_accuracy: expected 1.0",
    ),
    (
        "aggregates/0/expected/official/new",
        1.0,
        "aggregates public:all_types: official.new: expected 1.0, got (missing)",
    ),
    (
        "aggregates/3/expected/vstibench_official_overall",
        62.5,
        "aggregates public:vsti_all: vstibench_official_overall: expected 62.5, got 62",
    ),
    ("prompts/9/official_gemini_api", "", "prompts 9: official_gemini_api: expected "),
    ("frame_indices/4/frame_idx/2", 61, "frame_indices 4: frame_idx[2]: expected 61"),
    ("frame_indices/4/frame_time", "", 'frame_indices 4: frame_time: expected "", got'),
    (
        "space_aware_sampling/max_coverage/0/selected_in_order",
        [0],
        "space_aware_sampling max_coverage 0: selected_in_order: expected [0], got [1,",
    ),
    (
        "space_aware_sampling/full/1/conf_median",
        0.2,
        "space_aware_sampling full 1: conf_median: expected 0.2, got 0.17",
    ),
    (
        "scanqa/1/expected/BLEU1to4_x100/3",
        65.9,
        "scanqa 1: BLEU1to4_x100[3]: expected 65.9, got 65.906",
    ),
    (
        "maxinfo_rect_maxvol/2/same_rows_for_U_instead_of_USigma",
        False,
        "maxinfo_rect_maxvol 2: same_rows_for_U_instead_of_USigma: expected false",
    ),
    # What is not understood.
    ("new_section", [], "new_section -: not a known section"),
    ("items/150", [], "items 150: not an object: list"),
    ("items/150", {"expected": {}}, "items 150: not of a known form: KeyError: 'doc'"),
    ("items/0/weight", 2, "items public-0000: key weight: not understood"),
    (
        "items/0/expected/lenient",
        1,
        "items public-0000: expected lenient: not understood",
    ),
    ("prompts/0/official_claude", "", "prompts 0: key official_claude: not understood"),
    ("space_aware_sampling/new", [], "space_aware_sampling new: not a known list"),
    ("scanqa/0/expected/SPICE", 1.0, "scanqa 0: expected SPICE: not understood"),
    ("aggregates/0/items", None, "aggregates public:all_types: not of a known form"),
]


@pytest.mark.parametrize(("place", "value", "line"), WRONG)
def test_each_wrong_quantity_is_named(place: str, value, line: str, cases, check):
    put(cases, place, value)
    section = place.split("/")[0]
    found = failures(check({section: cases[section]}))
    assert len(found) == 1 and found[0].startswith(line), found


def test_what_is_absent_is_counted(cases, check):
    for item in cases["items"][:3]:
        del item["fuzzy"], item["expected"]["spatial_mllm"]
    del cases["space_aware_sampling"]["full"]
    cases["scanqa"][0]["expected"]["METEOR_x100"] = 40.0
    sections = check(cases)
    assert failures(sections) == []
    assert sections["items"].absent == {"fuzzy": 3, "expected.spatial_mllm": 3}
    assert sections["space_aware_sampling"].absent == {"full": 1}
    assert sections["scanqa"].unchecked.total() == 1


# ------------------------------------------------- branches that the file does not show
def test_other_items(check):
    doc = {"question_type": "route_planning", "ground_truth": "B"}
    spatial = {"cleaned_prediction": "b", "cleaned_gt": "b", "score": 1.0}

    def item(doc, said, fuzzy, official, spatial, benchmark="vsibench"):
        expected = {"official": official, "spatial_mllm": spatial}
        return {
            "doc": doc,
            "prediction": said,
            "fuzzy": fuzzy,
            "expected": expected,
            "benchmark": benchmark,
        }

    no_text = {"error": "AttributeError"}, {"error": "TypeError"}
    unknown = {"error": "ValueError"}, {"error": "ValueError"}
    items = [
        item(doc, "B", "B", {"metric": "accuracy", "score": 1.0}, spatial),
        item(doc, None, None, *no_text),
        item(doc, 4, {"error": "AttributeError"}, *no_text),
        item({**doc, "ground_truth": 2}, "B", "B", *no_text),
        item({**doc, "question_type": "x"}, "B", "B", *unknown),
        item({"question_type": "x"}, "B", "B", *unknown),
        item(doc, "B", "B", {"error": "ValueError"}, spatial, "vstibench"),
    ]
    sections = check(None, items=items)
    assert failures(sections) == []
    assert sections["items"].compared == 21


def test_other_prompts(check):
    doc = {"question_type": "route_planning", "question": "q", "options": None}
    frames, choice = "These are frames of a video.", "from the given choices directly."
    prompts = [
        {
            "doc": doc,
            "official_default": {"error": "TypeError"},
            "spatial_mllm": {"error": "ValueError"},
            "vica_readme": f"<image>\n\n\n{frames}\n\nQuestion: q\n"
            "Please answer the question using a single word or phrase.\n",
        },
        {
            "doc": {**doc, "options": []},
            "official_gpt4v": f"{frames}\nq\nOptions:\n\nAnswer with the option's "
            f"letter {choice}",
            "spatial_mllm": {"error": "ValueError"},
            "vica_readme": f"<image>\n\n\n{frames}\n\nQuestion: q\n\nAnswer with the "
            f"option\u2019s letter {choice}\n",
        },
        {
            "doc": {**doc, "question_type": "camera_displacement"},
            "official": f"{frames}\nq\nPlease answer the question using a single word "
            "or phrase.",
            "spatial_mllm": {"error": "ValueError"},
        },
        {
            "doc": {**doc, "question_type": "x"},
            "official_gemini_api": {"error": "ValueError"},
        },
    ]
    sections = check(None, prompts=prompts)
    assert failures(sections) == []
    assert sections["prompts"].absent == {
        "official_default": 3,
        "official_gemini_api": 3,
        "spatial_mllm": 1,
        "vica_readme": 2,
    }


def test_other_frame_indices(check):
    base = {"max_frames_num": 4, "fps_arg": 1, "force_sample": False}
    frames = [
        # 2.5 frames a second: steps of 2 (halves to even), times number / step.
        base | {"num_frames": 7, "avg_fps": 2.5, "frame_idx": [0, 2, 4, 6],
                "frame_time": "0.00s,1.00s,2.00s,3.00s", "video_time": 2.8},
        base | {"num_frames": 9, "avg_fps": 2.5, "frame_idx": [0, 2, 5, 8],
                "frame_time": "0.00s,0.80s,2.00s,3.20s"},
        base | {"num_frames": 2, "avg_fps": 2.0, "force_sample": True,
                "frame_idx": [0, 0, 0, 1], "frame_time": "0.00s,0.00s,0.00s,0.50s"},
        base | {"num_frames": 5, "avg_fps": 0.5, "error": "ValueError"},
        base | {"num_frames": 5, "avg_fps": 0.5, "force_sample": True,
                "error": "ValueError"},
        base | {"num_frames": 5, "avg_fps": 0.0, "error": "ZeroDivisionError"},
        base | {"num_frames": 5, "avg_fps": 1.0, "max_frames_num": 0, "frame_idx": []},
    ]  # fmt: skip
    sections = check(None, frame_indices=frames)
    assert failures(sections) == []
    assert sections["frame_indices"].compared == 11


def test_other_sets(check):
    counting = {"question_type": "object_counting", "ground_truth": "0"}
    easy = {"question_type": "object_rel_direction_easy", "ground_truth": "A"}
    zero = {"micro": 0.0, "macro": 0.0}
    nothing = {"per_question_type": {}, "acc": zero, "mra": zero, "all": zero}
    aggregates = [
        {
            "items": [],
            "expected": {
                "official": {"error": "KeyError"},
                "vlm3r_vsibench_overall": {"error": "KeyError"},
                "spatial_mllm": nothing,
            },
        },
        {
            "items": [{"doc": counting, "prediction": "1"}],
            "expected": {
                "official": {"error": "ZeroDivisionError"},
                "vlm3r_vsibench_overall": {"error": "ZeroDivisionError"},
            },
        },
        {
            "items": [{"doc": easy, "prediction": "A"}],
            "expected": {
                "official": {"error": "KeyError"},
                "vlm3r_vsibench_overall": 100.0,
            },
        },
    ]
    scanqa = [
        {"annotations": [], "predictions": [], "expected": {"error": "ValueError"}},
        {
            "annotations": [{"id": "a_0", "metadata": {"answers": ["x"]}}],
            "predictions": [{"sample_id": "b_0", "pred_response": "x"}],
            "expected": {"error": "KeyError"},
        },
        {
            "annotations": [{"id": "a_0", "metadata": {"answers": ["left", "left"]}}],
            "predictions": [{"sample_id": "a_2", "pred_response": "left"}],
            "expected": {
                "count": 1,
                "CIDEr_x100": 0.0,
                "ROUGE_L_x100": 100.0,
                "EM": 1.0,
            },
        },
    ]
    flat = np.ones((1, 2, 2, 3)).tolist()
    space = {
        "max_coverage": [{"sets": [[], [1]], "K": 0, "selected_in_order": []}],
        "full": [
            {
                "world_points": flat,
                "world_points_conf": np.zeros((1, 2, 2)).tolist(),
                "K": 1,
                "error": "RuntimeError",  # torch's own: any error of ours will do
            }
        ],
    }
    maxvol = [{"A": [[1.0], [2.0], [4.0]], "tol": 1.0, "minK": 2, "maxK": 2,
               "rect_maxvol_rows_in_order": [2, 1]}]  # fmt: skip
    sections = check(
        None,
        aggregates=aggregates,
        scanqa=scanqa,
        space_aware_sampling=space,
        maxinfo_rect_maxvol=maxvol,
    )
    assert failures(sections) == []
    assert sections["aggregates"].absent == {"spatial_mllm": 2}


# --------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[]", "JSON, but a list and no object"),
        (b"{}", "nothing to compare"),
        (b'{"meta": {}, "items": []}', "nothing to compare"),
        (b'{"items": {}}', "items must be a list of objects, got dict"),
        (b'{"space_aware_sampling": []}', "space_aware_sampling must be an object"),
        (b'{"space_aware_sampling": {"full": 1}}', "full must be a list"),
        (b'{"items": [' + b"9" * 5000 + b"]}", "not a cases file"),
        (b"[" * 100_000, "not a cases file|not JSON"),
    ],
)
def test_broken_files(content: bytes, message: str, tmp_path: Path):
    path = tmp_path / "cases.json"
    path.write_bytes(content)
    with pytest.raises(CasesError, match=message) as caught:
        check_file(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path):
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(CasesError, match="cannot read it"):
            check_file(path)
    done = run(f"--cases={tmp_path / 'none.json'}")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


KEYS = """doc prediction fuzzy expected official error items question_type A tol K sets
    annotations predictions num_frames avg_fps max_frames_num"""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda part: (
        st.lists(part, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS.split()), part, max_size=4)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*CHECKERS, "x"]), st.lists(JSON, max_size=3)))
def test_no_content_stops_the_check(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("cases") / "cases.json"
    path.write_text(json.dumps(content))
    try:
        sections = check_file(path)
    except CasesError:
        return
    assert any(section.failures or section.compared for section in sections)


# ----------------------------------------------------------------------- the comparison
def test_leaves():
    def differences(expected, got, tolerance=None):
        found = [leaf.difference(tolerance) for leaf in leaves(expected, got, "q")]
        return max(found, default=0.0)

    assert differences({"a": [1, "x"]}, {"a": [1.0, "x"]}) == 0
    assert differences([1.0], [1.0 + 1e-12]) == math.inf
    assert differences([1.0], [1.5], 1e-9) == 0.5
    assert differences(math.nan, math.nan, 1e-9) == 0
    assert differences(math.inf, 1.0, 1e-9) == math.inf
    for one, other in ((True, 1), ("1", 1), (None, 0), ([], {}), ([1], [1, 2])):
        assert differences(one, other, 1.0) == math.inf
        assert differences(other, one, 1.0) == math.inf
    assert differences({"a": 1}, {}) == math.inf
    assert str(Leaf("q", 1, 2)) == "q: expected 1, got 2"
    texts = Leaf("q", "x" * 100 + "a", "x" * 100 + "b")
    assert "from character 100" in str(texts) and len(str(texts)) < 120
