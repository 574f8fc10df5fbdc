"""Published VSI-Bench scores, read from published.json, which names their source."""

import functools
import importlib.resources
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Shown beside a run, strongest first in the mean; the other models are in the file.
SHOWN = (
    "ViCA-7B",
    "ViCA2-7B",
    "Gemini-1.5 Pro",
    "LLaVA-NeXT-Video-72B",
    "GPT-4o",
)
SCANS = {"arkitscenes", "scannet", "scannetpp"}  # datasets of VSI-Bench's videos


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """Percent per task, and the macro average as it was published."""

    name: str
    overall: float
    per_task: Mapping[str, float]


@functools.cache
def read_published() -> Mapping[str, Any]:
    """The whole file."""
    file = importlib.resources.files("vica_jax.eval").joinpath("published.json")
    return json.loads(file.read_text(encoding="utf-8"))


def published_models(
    benchmark: str, subset: str | None, videos: Iterable[str] = ()
) -> Mapping[str, PublishedModel]:
    """Models by name, in the file's order; none where nothing was published.

    The published scores are of the full benchmark: no other subset compares with them,
    and no videos of other scans (``<dataset>/<scene>.mp4``).
    """
    scans = {video.split("/")[0] for video in videos}
    if benchmark != "vsibench" or subset != "full" or scans - SCANS:
        return {}
    return {
        name: PublishedModel(name=name, **row)
        for name, row in read_published()["vsibench"].items()
    }
