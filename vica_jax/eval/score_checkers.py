"""What is compared in each section of a cases file (see ``score_cases``).

Every function goes through one case and yields what it finds, for ``recorded``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from vica_jax.data.video import sample_frames
from vica_jax.eval import aggregate, coverage, maxvol, prompts, scanqa, scores
from vica_jax.eval.question import TYPES
from vica_jax.eval.recorded import Absent, Check, Found, Unchecked, Unknown

OFFICIAL, SPATIAL, SCANQA, SECONDS, CONFIDENCE = 1e-9, 1e-6, 1e-6, 1e-9, 1e-6
REMARKS = ("id", "name", "note", "notes", "comment", "split", "source")

Case = Mapping[str, Any]


def _strange(case: Case, known: str, what: str = "key") -> Iterator[Unknown]:
    """Keys that no rule reads."""
    for key in case:
        if key not in known.split() and key not in REMARKS:
            yield Unknown(f"{what} {key}")


def _absent(case: Case, keys: Iterable[str]) -> Iterator[Absent]:
    for key in keys:
        if key not in case:
            yield Absent(key)


def _parts(expected: Any, known: str, where: str) -> Iterator[Unknown | Absent]:
    """What is strange or missing in an expected value that is no error."""
    if not isinstance(expected, Mapping):
        yield Unknown(f"{where} ({type(expected).__name__})")
    elif "error" not in expected:
        yield from _strange(expected, known, f"{where}'s key")
        for key in known.split():
            if key not in expected:
                yield Absent(f"{where}.{key}")


# ------------------------------------------------------------------------------- items
def check_item(case: Case) -> Iterator[Found]:
    """One answer: what is read of it, and its scores."""
    yield from _strange(case, "id benchmark doc prediction fuzzy expected")
    yield from _absent(case, ("benchmark", "fuzzy", "expected"))
    benchmark = case.get("benchmark", "vsibench")
    doc, said = case["doc"], case["prediction"]
    if "fuzzy" in case:
        unread = case["fuzzy"] is None and not isinstance(said, str)
        yield Check(
            quantity="fuzzy",
            expected=case["fuzzy"],
            compute=lambda: None if unread else scores.first(said),
        )
    expected = case.get("expected", {})
    yield from _strange(expected, "official spatial_mllm", "expected")
    if "official" in expected:
        official = expected["official"]
        yield from _parts(official, "metric score", "official")

        def score() -> dict[str, Any]:
            metric, value = scores.score_official(doc, said, benchmark=benchmark)
            return _only({"metric": metric, "score": value}, official)

        yield Check(
            quantity="official", expected=official, compute=score, tolerance=OFFICIAL
        )
    elif benchmark in TYPES:
        yield Absent("expected.official")
    if "spatial_mllm" in expected:
        spatial = expected["spatial_mllm"]
        yield from _parts(
            spatial, "cleaned_prediction cleaned_gt score", "spatial_mllm"
        )
        yield Check(
            quantity="spatial_mllm",
            expected=spatial,
            compute=lambda: _only(vars(scores.score_spatial_mllm(doc, said)), spatial),
            tolerance=SPATIAL,
        )
    elif benchmark == "vsibench":
        yield Absent("expected.spatial_mllm")


def _only(values: Mapping[str, Any], expected: Any) -> dict[str, Any]:
    """The values that were recorded; an unknown key is reported by ``_strange``."""
    if "error" in expected:
        return dict(values)
    return {key: values.get(key) for key in expected}


# -------------------------------------------------------------------------- aggregates
AGGREGATES: Mapping[str, tuple[Callable[[Any], Any], float]] = {
    "official": (aggregate.aggregate_official, OFFICIAL),
    "vlm3r_vsibench_overall": (aggregate.aggregate_vlm3r, OFFICIAL),
    "spatial_mllm": (aggregate.aggregate_spatial_mllm, SPATIAL),
    "vstibench_official_overall": (aggregate.aggregate_vstibench, OFFICIAL),
}


def check_aggregate(case: Case) -> Iterator[Found]:
    """A set of answers: the numbers that each published code makes of it."""
    yield from _strange(case, "benchmark items expected")
    yield from _absent(case, ("expected",))
    pairs = [(item["doc"], item["prediction"]) for item in case["items"]]
    expected = case.get("expected", {})
    yield from _strange(expected, " ".join(AGGREGATES), "expected")
    vsti = case.get("benchmark", "vsibench") == "vstibench"
    usual = [name for name in AGGREGATES if name.startswith("vstibench") == vsti]
    yield from _absent(expected, usual)
    for name, (compute, tolerance) in AGGREGATES.items():
        if name in expected:
            yield Check(
                quantity=name,
                expected=expected[name],
                compute=lambda compute=compute: compute(pairs),
                tolerance=tolerance,
            )


# ----------------------------------------------------------------------------- prompts
RECORDED_PROMPTS = {
    "official_default": "official",
    "official_gemini_api": "gemini_api",
    "vica_readme": "vica_readme",
    "spatial_mllm": "spatial_mllm",
}
OTHER_PROMPTS = {"official": "official", "official_gpt4v": "gpt4v"}


def check_prompt(case: Case) -> Iterator[Found]:
    """One question: its text by each profile."""
    doc = case["doc"]
    known = {**RECORDED_PROMPTS, **OTHER_PROMPTS}
    yield from _strange(case, f"doc {' '.join(known)}")
    yield from _absent(case, RECORDED_PROMPTS)
    for key, profile in known.items():
        if key in case:
            yield Check(
                quantity=key,
                expected=case[key],
                compute=lambda profile=profile: write_prompt(profile, doc),
            )


def write_prompt(profile: str, doc: Case) -> str:
    """A prompt as it is recorded: only vica_readme has an image line there."""
    if profile == "vica_readme":
        return prompts.user_turn(profile, doc)
    if profile == "spatial_mllm" and doc["question_type"] in TYPES["vstibench"]:
        raise prompts.PromptError("Spatial-MLLM's code knows VSI-Bench's types alone")
    return prompts.bare_prompt(profile, doc)


# ----------------------------------------------------------------------- frame indices
def check_frame_indices(case: Case) -> Iterator[Found]:
    """Which frames are taken of a video, and at what times."""
    inputs = "num_frames avg_fps max_frames_num fps_arg force_sample"
    outputs = ("frame_idx", "frame_time", "video_time")
    yield from _strange(case, f"{inputs} {' '.join(outputs)} error")
    if "error" in case:
        expected = {"error": case["error"]}
        yield Check(
            quantity="sampling", expected=expected, compute=lambda: take_frames(case)
        )
        return
    yield from _absent(case, outputs)
    for key in outputs:
        if key in case:
            yield Check(
                quantity=key,
                expected=case[key],
                compute=lambda key=key: take_frames(case)[key],
                tolerance=SECONDS if key == "video_time" else None,
            )


def take_frames(case: Case) -> dict[str, Any]:
    """What ``load_video`` of the ViCA READMEs takes of a video.

    Raises:
      ValueError: as there, a step of 0 frames (the rate is below half of ``fps_arg``),
        even if frames are then taken uniformly; and a video without frames.
    """
    total, rate = case["num_frames"], case["avg_fps"]
    most, fps = case["max_frames_num"], case.get("fps_arg", 1)
    duration = total / rate
    if most == 0:  # one black image, and no frame of the video
        return {"frame_idx": [], "frame_time": "", "video_time": duration}
    if not round(rate / fps):
        raise ValueError("a step of 0 frames")
    force = case.get("force_sample", False)
    sample = sample_frames(total, rate, num_frames=most, fps=None if force else fps)
    return {
        "frame_idx": sample.indices.tolist(),
        "frame_time": sample.frame_time,
        "video_time": sample.duration_s,
    }


# ---------------------------------------------------------------- space-aware sampling
def check_cover(case: Case) -> Iterator[Found]:
    """Sets of voxels: those taken, in order."""
    yield from _strange(case, "sets K selected_in_order")
    yield from _absent(case, ("selected_in_order",))
    if "selected_in_order" in case:
        yield Check(
            quantity="selected_in_order",
            expected=case["selected_in_order"],
            compute=lambda: coverage.greedy_cover(case["sets"], case["K"]),
        )


def check_point_map(case: Case) -> Iterator[Found]:
    """A point map: its median confidence and the frames taken.

    Where the original fails, its error is torch's own; here it is a CoverageError.
    """
    yield from _strange(
        case, "world_points world_points_conf K conf_median selected_sorted error"
    )
    points, confidence = case["world_points"], case["world_points_conf"]

    def select() -> list[int]:
        return coverage.voxel_coverage(points, confidence, case["K"]).tolist()

    if "error" in case:
        expected = {"error": coverage.CoverageError.__name__}
        yield Check(quantity="selection", expected=expected, compute=select)
        return
    yield from _absent(case, ("conf_median", "selected_sorted"))
    if "conf_median" in case:
        yield Check(
            quantity="conf_median",
            expected=case["conf_median"],
            compute=lambda: float(coverage.median_confidence(confidence)),
            tolerance=CONFIDENCE,
        )
    if "selected_sorted" in case:
        yield Check(
            quantity="selected_sorted", expected=case["selected_sorted"], compute=select
        )


SPACE_AWARE = {"max_coverage": check_cover, "full": check_point_map}


# ------------------------------------------------------------------------------ ScanQA
_SCANQA: Mapping[str, Callable[[scanqa.ScanqaScores], Any]] = {
    "count": lambda found: found.count,
    "CIDEr_x100": lambda found: found.cider * 100,
    "BLEU1to4_x100": lambda found: [score * 100 for score in found.bleu],
    "ROUGE_L_x100": lambda found: found.rouge_l * 100,
    "EM": lambda found: found.em,
}


def check_scanqa(case: Case) -> Iterator[Found]:
    """A set of predictions: its text measures."""
    yield from _strange(case, "annotations predictions expected")
    yield from _absent(case, ("expected",))
    references = {
        each["id"]: each["metadata"]["answers"] for each in case["annotations"]
    }
    predictions = [
        (scanqa.reference_id(each["sample_id"]), each["pred_response"])
        for each in case["predictions"]
    ]

    def score() -> scanqa.ScanqaScores:
        return scanqa.score_scanqa(references, predictions)

    expected = case.get("expected", {})
    if "error" in expected:
        yield Check(quantity="scores", expected=expected, compute=score)
        return
    yield from _absent(expected, _SCANQA)
    for key, value in expected.items():
        if key in _SCANQA:
            yield Check(
                quantity=key,
                expected=value,
                compute=lambda key=key: _SCANQA[key](score()),
                tolerance=SCANQA,
            )
        elif key.upper().startswith("METEOR"):
            yield Unchecked("METEOR (a Java program makes it)")
        elif key not in REMARKS:
            yield Unknown(f"expected {key}")


# ------------------------------------------------------------------------------ maxvol
def check_maxvol(case: Case) -> Iterator[Found]:
    """A matrix: the rows taken."""
    rows_in_order = "rect_maxvol_rows_in_order"
    yield from _strange(
        case,
        f"A tol maxK minK start_square_maxvol_rows {rows_in_order} selected_sorted "
        "same_rows_for_U_instead_of_USigma",
    )
    options = {"tol": case["tol"]} if case.get("tol") is not None else {}
    options |= {"max_rows": case.get("maxK"), "min_rows": case.get("minK")}

    def take(matrix: Any) -> tuple[list[int], list[int]]:
        start, rows = maxvol.rect_maxvol(matrix, **options)
        return start.tolist(), rows.tolist()

    computed: dict[str, Callable[[], Any]] = {
        "start_square_maxvol_rows": lambda: take(case["A"])[0],
        rows_in_order: lambda: take(case["A"])[1],
        "selected_sorted": lambda: sorted(take(case["A"])[1]),
        "same_rows_for_U_instead_of_USigma": lambda: (
            take(maxvol.unit_columns(case["A"]))[1] == take(case["A"])[1]
        ),
    }
    yield from _absent(case, computed)
    for key, compute in computed.items():
        if key in case:
            yield Check(quantity=key, expected=case[key], compute=compute)


CHECKERS: Mapping[str, Callable[[Case], Iterator[Found]]] = {
    "items": check_item,
    "aggregates": check_aggregate,
    "prompts": check_prompt,
    "frame_indices": check_frame_indices,
    "space_aware_sampling": check_cover,  # and check_point_map: see SPACE_AWARE
    "scanqa": check_scanqa,
    "maxinfo_rect_maxvol": check_maxvol,
}
