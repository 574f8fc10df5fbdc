"""The cases of a golden folder: every recorded quantity computed again.

Each function takes the assistant and one file's record, and yields ``Row``s. Keys tell
the names and the number of cases; suffixes tell which part was recorded (``_sub4``:
every fourth row and column; ``_noaa`` and ``_aa``: Hiera's resize without and with
antialias).
"""

import re
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from vica_jax.data.conversation import chatml, tokenize_chunks
from vica_jax.data.example import Example, Medium, image_medium, video_medium
from vica_jax.data.video import sample_frames, time_instruction
from vica_jax.decode.assistant import Assistant
from vica_jax.eval.comparison import (
    EXACT,
    FEATURES,
    HIERA_PIXELS,
    SIGLIP_PIXELS,
    Row,
    close,
    compare_logits,
    gap_of,
    nchw,
    same,
)
from vica_jax.eval.subject import Subject
from vica_jax.layout import LayoutError
from vica_jax.models.config import make_layout
from vica_jax.models.resize import pool_bilinear
from vica_jax.models.siglip import siglip_pixels
from vica_jax.models.variants import SIGLIP_SO400M

IMAGE_TOKEN = -200


def compare_tokens(
    subject: Subject,
    case: str,
    examples: list[Example],
    record: dict[str, Any],
    prefix: str,
    custom_eos: int | None,
) -> Iterator[Row]:
    for key in sorted(record):
        match = re.fullmatch(
            re.escape(prefix) + r"\.gen_ids(_full_vocab|_rp\d+|_custom_eos)?", key
        )
        if not match:
            continue
        kind, recorded = match.group(1) or "", record[key]
        change: dict[str, Any] = {}
        if kind.startswith("_rp"):
            change["repetition_penalty"] = int(kind[3:]) / 100
        if kind == "_custom_eos":
            if custom_eos is None:
                raise KeyError("custom_eos_id")
            change["eos_ids"] = (custom_eos,)
        count = max(recorded.shape[1], 1)
        ours = subject.generate(
            examples, count, full_vocab=kind == "_full_vocab", **change
        )
        wrong = int((ours != recorded).sum()) if ours.shape == recorded.shape else -1
        margin = record.get(f"{key}_min_margin")
        detail = f"{recorded.size - wrong}/{recorded.size} tokens"
        if margin is not None:
            detail += f", margin {float(np.min(margin)):.4f}"
        error = 0.0 if wrong == 0 else float("inf")
        yield Row(case, f"gen_ids{kind}", error, EXACT, detail)


def _chunks(
    assistant: Assistant, case: str, record: dict[str, Any]
) -> tuple[list[list[int]], list[Row]]:
    """Token chunks of the recorded prompt, and their comparison with its ids."""
    prompt = str(record[f"{case}.prompt"])
    chunks = tokenize_chunks(assistant.tokenizer, prompt)
    flat = list(chunks[0])
    for chunk in chunks[1:]:
        flat += [IMAGE_TOKEN, *chunk]
    rows = [same(case, "input_ids", np.array(flat), record[f"{case}.input_ids"])]
    if f"{case}.question" in record:
        built = chatml([(str(record[f"{case}.question"]), None)])
        rows.append(same(case, "prompt", built, prompt))
    return chunks, rows


def _names(record: dict[str, Any], field: str) -> list[str]:
    suffix = f".{field}"
    return sorted(key[: -len(suffix)] for key in record if key.endswith(suffix))


# ---------------------------------------------------------------------- videos
def video_cases(assistant: Assistant, record: dict[str, Any]) -> Iterator[Row]:
    subjects: dict[bool | None, Subject] = {None: Subject(assistant)}
    examples: dict[str, Example] = {}
    for case in _names(record, "frames"):
        frames = record[f"{case}.frames"]
        chunks, rows = _chunks(assistant, case, record)
        yield from rows
        yield from _compare_sampling(case, record, len(frames))
        medium = video_medium(frames, assistant.cfg.layout)
        example = examples[case] = Example(chunks=chunks, media=[medium])
        yield from _compare_siglip(subjects[None], case, medium, record)
        for variant, subject in _variants(assistant, subjects, record, case):
            if medium.raw is not None:
                yield from _compare_hiera(subject, case, medium, record, variant)
            group = f"{case}{variant}"
            yield from _compare_sequence(
                subject, case, example, record, [group], variant
            )
            yield from compare_tokens(subject, group, [example], record, group, None)
    if any(key.startswith("batch_left.") for key in record):
        rows_of = [examples[case] for case in sorted(examples)]
        yield from compare_tokens(
            subjects[None], "batch", rows_of, record, "batch_left", None
        )


def _compare_sampling(
    case: str, record: dict[str, Any], num_frames: int
) -> Iterator[Row]:
    if f"{case}.frame_idx" not in record:
        return
    sample = sample_frames(
        int(record[f"{case}.total_frames"]),
        float(record[f"{case}.fps"]),
        num_frames=num_frames,
    )
    yield same(case, "frame_idx", sample.indices, record[f"{case}.frame_idx"])
    if f"{case}.frame_time" in record:
        text = sample.frame_time
        yield same(case, "frame_time", text, str(record[f"{case}.frame_time"]))


def _compare_siglip(
    subject: Subject, case: str, medium: Medium, record: dict[str, Any]
) -> Iterator[Row]:
    layout = subject.layout
    normalised = siglip_pixels(jnp.asarray(medium.siglip), subject.cfg.siglip)
    features, inner = subject.siglip(medium.siglip)
    project = subject.run(
        "siglip_projector", lambda m, x: m.siglip_projector(x), features
    )
    projected = np.asarray(project[0])
    side = layout.siglip_grid
    grid = projected.reshape(-1, side, side, projected.shape[-1])
    pooled = np.asarray(pool_bilinear(jnp.asarray(grid), layout.siglip_pooled_grid))
    newline = np.asarray(subject.params["newline"])
    blocks = [inner["layers"][str(i)]["output"][0] for i in range(len(inner["layers"]))]
    states = [inner["embeddings"][0], *blocks]
    ours = {
        "siglip_pixel_values": (nchw(normalised), SIGLIP_PIXELS),
        "siglip_features": (features, FEATURES),
        "siglip_hidden_states_frame0": (
            np.stack([np.asarray(s)[:1] for s in states]),
            FEATURES,
        ),
        "siglip_projected": (projected, FEATURES),
        "siglip_pooled": (pooled.reshape(len(pooled), -1, pooled.shape[-1]), FEATURES),
        "siglip_tokens": (_with_newlines(pooled, newline), FEATURES),
    }
    for name, (value, tolerance) in ours.items():
        if f"{case}.{name}" in record:
            recorded = record[f"{case}.{name}"]
            yield close(case, name, value[: len(recorded)], recorded, tolerance)


def _compare_hiera(
    subject: Subject,
    case: str,
    medium: Medium,
    record: dict[str, Any],
    variant: str,
) -> Iterator[Row]:
    assert medium.raw is not None
    layout = subject.layout
    pixels, inner = subject.hiera(medium.raw)
    yield from _compare_hiera_pixels(case, pixels, record, variant)
    stages = {
        int(name[5:]): np.asarray(value[0])
        for name, value in inner["blocks"].items()
        if name.startswith("stage")
    }
    for stage, value in sorted(stages.items()):
        key = f"{case}.hiera_stage{stage}{variant}"
        if key in record:
            ours = nchw(value)[: len(record[key])]
            yield close(
                case, f"hiera_stage{stage}{variant}", ours, record[key], FEATURES
            )
    if f"{case}.hiera_pos_embed" in record:
        ours = np.asarray(inner["positions"][0])[None]
        recorded = record[f"{case}.hiera_pos_embed"]
        yield close(case, "hiera_pos_embed", ours, recorded, FEATURES)
    grid = np.asarray(
        subject.run(
            "hiera_projector",
            lambda m, x: m.hiera_projector(x),
            stages[layout.output_stage],
        )[0]
    )
    newline = np.asarray(subject.params["newline"])
    if medium.kind == "video":
        pooled = np.asarray(pool_bilinear(jnp.asarray(grid), layout.hiera_pooled_grid))
    else:
        pooled = grid
    ours = {
        "hiera_projected": grid.reshape(len(grid), -1, grid.shape[-1]),
        "hiera_pooled": pooled.reshape(len(pooled), -1, pooled.shape[-1]),
        "hiera_tokens": _with_newlines(pooled, newline),
    }
    for name, value in ours.items():
        if f"{case}.{name}{variant}" in record:
            recorded = record[f"{case}.{name}{variant}"]
            yield close(case, f"{name}{variant}", value, recorded, FEATURES)


def _compare_hiera_pixels(
    case: str, pixels: np.ndarray, record: dict[str, Any], variant: str
) -> Iterator[Row]:
    """Recorded parts of the Hiera pixels: ``_hframeN``, ``_last``, ``_subN``."""
    pattern = re.escape(f"{case}.sam_pixel_values{variant}") + (
        r"(_hframe(\d+)|_last)?(_sub(\d+))?"
    )
    for key in sorted(record):
        match = re.fullmatch(pattern, key)
        if not match:
            continue
        which, frame, _, sub = match.groups()
        part = nchw(pixels)
        if frame is not None:
            part = part[int(frame) : int(frame) + 1]
        elif which:
            part = part[-1:]
        if sub:
            part = part[:, :, :: int(sub), :: int(sub)]
        name = key[len(case) + 1 :]
        yield close(case, name, part, record[key], HIERA_PIXELS)


def _with_newlines(grid: np.ndarray, newline: np.ndarray) -> np.ndarray:
    n, rows, _, width = grid.shape
    column = np.broadcast_to(newline, (n, rows, 1, width))
    return np.concatenate([grid, column], axis=2).reshape(-1, width)


def _compare_sequence(
    subject: Subject,
    case: str,
    example: Example,
    record: dict[str, Any],
    groups: list[str],
    variant: str = "",
) -> Iterator[Row]:
    ours = subject.sequence(example)
    name = f"inputs_embeds{variant}"
    if f"{case}.{name}" in record:
        yield close(case, name, ours["embeds"], record[f"{case}.{name}"], FEATURES)
    if f"{case}.num_visual_tokens" in record:
        visual = example.visual_tokens(subject.layout)
        recorded = record[f"{case}.num_visual_tokens"]
        yield same(case, "num_visual_tokens", visual, recorded)
    for group in groups:
        yield from compare_logits(group, ours["logits"], record, group)
        key = f"{group}.lm_hidden_states_last_pos"
        if key in record:
            yield close(
                group, "lm_hidden_states", ours["states"], record[key], FEATURES
            )
        key = f"{group}.logits_bf16_last8"
        if key in record:
            last = ours["logits"][-len(record[key]) :]
            gap = gap_of(last, record[key])
            yield Row(group, "logits_bf16_last8", gap, None, "bf16 against our fp32")


# ---------------------------------------------------------------------- images
def image_cases(assistant: Assistant, record: dict[str, Any]) -> Iterator[Row]:
    subjects: dict[bool | None, Subject] = {}
    for case in _names(record, "image"):
        image = Image.fromarray(record[f"{case}.image"])
        chunks, rows = _chunks(assistant, case, record)
        yield from rows
        pixels = record.get(f"{case}.siglip_pixel_values")
        padded = pixels is not None and pixels.ndim == 3
        for variant, subject in _variants(assistant, subjects, record, case):
            mode = "padded" if padded else "anyres"
            medium = image_medium(image, subject.layout, mode)
            example = Example(chunks=chunks, media=[medium])
            if variant in ("", "_noaa"):
                yield from _compare_views(subject, case, medium, record)
            if medium.raw is not None:
                yield from _compare_image_hiera(subject, case, medium, record, variant)
            group = f"{case}{variant}"
            yield from _compare_sequence(
                subject, case, example, record, [group], variant
            )
            yield from compare_tokens(subject, group, [example], record, group, None)


def _variants(
    assistant: Assistant,
    subjects: dict[bool | None, Subject],
    record: dict[str, Any],
    case: str,
) -> Iterator[tuple[str, Subject]]:
    """Hiera resizes a case was recorded with; ("", ...) where they do not differ."""
    found = [
        variant
        for variant in ("_noaa", "_aa")
        if any(key.startswith(f"{case}{variant}.") for key in record)
    ]
    for variant in found or [""]:
        antialias = {"": None, "_noaa": False, "_aa": True}[variant]
        if assistant.cfg.hiera is None:
            antialias = None
        if antialias not in subjects:
            subjects[antialias] = Subject(assistant, antialias)
        yield variant, subjects[antialias]


def _compare_views(
    subject: Subject, case: str, medium: Medium, record: dict[str, Any]
) -> Iterator[Row]:
    layout = subject.layout
    pixels = nchw(siglip_pixels(jnp.asarray(medium.siglip), subject.cfg.siglip))
    if medium.kind == "anyres":
        plan = layout.anyres(medium.image_wh)
        facts = {
            "best_resolution_wh": plan.resolution_wh,
            "grid_wh": plan.tiles_wh,
            "num_crops_plus_base": len(pixels),
        }
        for name, value in facts.items():
            if f"{case}.{name}" in record:
                yield same(case, name, value, record[f"{case}.{name}"])
    stored = record.get(f"{case}.crops_stored")
    if stored is not None:
        pixels = pixels[stored]
    for key in sorted(record):
        match = re.fullmatch(
            re.escape(f"{case}.siglip_pixel_values") + r"(_sub(\d+))?", key
        )
        if match:
            step = int(match.group(2) or 1)
            ours = pixels[:, :, ::step, ::step]
            recorded = record[key]
            ours = ours[0] if recorded.ndim == 3 else ours
            name = key[len(case) + 1 :]
            yield close(case, name, ours, recorded, SIGLIP_PIXELS)


def _compare_image_hiera(
    subject: Subject,
    case: str,
    medium: Medium,
    record: dict[str, Any],
    variant: str,
) -> Iterator[Row]:
    assert medium.raw is not None
    pixels, inner = subject.hiera(medium.raw)
    yield from _compare_hiera_pixels(case, pixels, record, variant)
    stage = np.asarray(inner["blocks"][f"stage{subject.layout.output_stage}"][0])
    grid = subject.run("hiera_projector", lambda m, x: m.hiera_projector(x), stage)[0]
    newline = np.asarray(subject.params["newline"])
    key = f"{case}.hiera_tokens{variant}"
    if key in record:
        ours = _with_newlines(np.asarray(grid), newline)
        yield close(case, f"hiera_tokens{variant}", ours, record[key], FEATURES)


# ------------------------------------------------------------------ text, misc
def text_cases(assistant: Assistant, record: dict[str, Any]) -> Iterator[Row]:
    subject = Subject(assistant)
    custom = next(
        (int(v) for k, v in record.items() if k.endswith(".custom_eos_id")), None
    )
    examples: dict[str, Example] = {}
    for case in _names(record, "prompt"):
        chunks, rows = _chunks(assistant, case, record)
        yield from rows
        examples[case] = Example(chunks=chunks)
        yield from _compare_sequence(subject, case, examples[case], record, [case])
        yield from compare_tokens(subject, case, [examples[case]], record, case, custom)
    if any(key.startswith("batch_left.") for key in record):
        rows_of = [examples[case] for case in sorted(examples)]
        yield from compare_tokens(
            subject, "batch", rows_of, record, "batch_left", custom
        )


def misc_cases(assistant: Assistant, record: dict[str, Any]) -> Iterator[Row]:
    for i, case in enumerate(record.get("frame_sampling", [])):
        limit = case["frames_upbound"] or None  # 0: no limit, and nothing to force
        forced = limit is not None and case["force_sample"]
        sample = sample_frames(
            case["total_frames"],
            case["avg_fps"],
            num_frames=limit,
            fps=None if forced else case["video_fps"],
        )
        name = f"sampling {i}"
        yield same(name, "frame_idx", sample.indices, np.array(case["frame_idx"]))
        yield same(name, "frame_time", sample.frame_time, case["frame_time"])
        if "time_instruction" in case:
            ours = time_instruction(sample)
            yield same(name, "time_instruction", ours, case["time_instruction"])
    layouts = {}
    own = assistant.cfg.layout
    layouts[str(own.siglip_image_size)] = own
    layouts[str(SIGLIP_SO400M.image_size)] = make_layout(SIGLIP_SO400M)
    for i, case in enumerate(record.get("anyres", [])):
        for size, layout in layouts.items():
            if size not in case:
                continue
            wanted = case[size]
            try:
                plan = layout.anyres(tuple(case["size_wh"]))
            except LayoutError as error:
                yield Row(f"anyres {i}", size, float("inf"), EXACT, str(error))
                continue
            tokens = layout.siglip_grid**2 + plan.final_hw[0] * (plan.final_hw[1] + 1)
            ours = {
                "best_resolution": list(plan.resolution_wh),
                "grid_wh": list(plan.tiles_wh),
                "unpadded_hw": list(plan.crop[2:]),
                "times": plan.times,
                "final_hw": list(plan.final_hw),
                "num_tokens": tokens,
            }
            equal = all(ours[key] == wanted[key] for key in ours if key in wanted)
            detail = "" if equal else f"{ours} != {wanted}"[:200]
            error = 0.0 if equal else float("inf")
            yield Row(f"anyres {i}", f"{size} px", error, EXACT, detail)
