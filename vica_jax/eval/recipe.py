"""How the answers of a run are made: everything that can change one of them.

A workdir holds one recipe; a run that continues it must have the same. It names no
time, host, path or sharding, so that equal runs have equal reports.
"""

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from vica_jax.decode.assistant import Assistant
from vica_jax.errors import InputError
from vica_jax.eval.coverage import hash_point_maps
from vica_jax.eval.question import Benchmark
from vica_jax.eval.settings import RunSettings
from vica_jax.eval.workdir import BLACK_FRAMES, RECIPE, has_answers
from vica_jax.files import write_text

PACKAGES = (
    "vica-jax",
    "jax",
    "jaxlib",
    "flax",
    "numpy",
    "pillow",
    "av",
    "decord",
    "transformers",
)


class RecipeError(InputError):
    """A workdir that holds answers made in another way."""


def make_recipe(
    assistant: Assistant, benchmark: Benchmark, settings: RunSettings
) -> dict[str, Any]:
    """Plain JSON values; see the module docstring."""
    answers = settings.answers
    model = assistant.model(answers)
    layout = model.cfg.layout
    frames = settings.frames.num_frames
    recipe: dict[str, Any] = {
        "benchmark": benchmark.name,
        "subset": benchmark.subset,
        "annotations": benchmark.file,
        "questions": len(benchmark.questions),
        "videos": len(benchmark.videos),
        "dataset_revision": f"sha256:{benchmark.revision}",
        "prompts": settings.profile,
        "time_instruction": answers.time_instruction,
        "frames": settings.frames.describe(),
        "visual_tokens": {
            "siglip": layout.siglip_video_tokens(frames),
            "hiera": layout.hiera_video_tokens(frames),
        },
        "token_ratio": None,
        "resize": f"SigLIP {layout.siglip_image_size} px bicubic (Pillow)",
        "decoding": {
            "max_new_tokens": answers.max_new_tokens,
            "temperature": answers.temperature,
            "repetition_penalty": assistant.repetition_penalty(answers),
        },
        "exact_scoring": settings.exact,
        "weights": f"fingerprint:{assistant.fingerprint}",
        "parameters": sum(x.size for x in jax.tree.leaves(assistant.params)),
        "dtype": assistant.dtype.name,
        "device": jax.devices()[0].device_kind,
        "versions": {"python": platform.python_version(), **_versions()},
    }
    if assistant.kv_dtype is not None:
        recipe["kv_dtype"] = assistant.kv_dtype
    if settings.point_maps is not None:
        recipe["point_maps"] = f"crc:{hash_point_maps(settings.point_maps)}"
    if settings.black_frames:
        recipe[BLACK_FRAMES] = True
    if settings.thinking:
        recipe["answers_from"] = "final_segment"
    if layout.has_hiera:
        recipe["token_ratio"] = {
            "num_hiera": layout.num_hiera_frames(frames),
            "stage": layout.output_stage,
            "pool": layout.pool_stride,
        }
        recipe["resize"] += f", Hiera {layout.hiera_image_size} px bilinear"
    return recipe


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def keep_recipe(workdir: Path, recipe: Mapping[str, Any]) -> None:
    """Write the recipe of a new workdir; check that of one that has answers.

    Raises:
      RecipeError: the workdir's recipe is another; the message names what differs.
    """
    path = workdir / RECIPE
    text = json.dumps(recipe, indent=2, ensure_ascii=False) + "\n"
    try:
        old = json.loads(path.read_text())
    except FileNotFoundError:
        if has_answers(workdir):
            raise RecipeError(
                f"{workdir}: it holds answers, but no {RECIPE} that says how they were "
                "made: take another workdir"
            ) from None
        workdir.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
        return
    except ValueError as error:
        raise RecipeError(f"{path}: no JSON ({error}): take another workdir") from error
    if not isinstance(old, dict):
        raise RecipeError(f"{path}: no JSON object: take another workdir")
    new = json.loads(text)
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if differing:
        key = differing[0]
        raise RecipeError(
            f"{workdir}: its answers were made with other {', '.join(differing)} "
            f"({key}: {_short(old.get(key))} there, {_short(new.get(key))} now): take "
            "another workdir or the same settings"
        )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
