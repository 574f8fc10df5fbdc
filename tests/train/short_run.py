"""A run of seconds, of ``tests/micro``'s model: its base, data, settings and traces."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro
import numpy as np
from PIL import Image

from vica_jax.checkpoint import CheckpointWriter, iter_leaves
from vica_jax.config import build, plain
from vica_jax.models.vica import abstract_vica
from vica_jax.train.partition import leaves
from vica_jax.train.run import Exporters, run
from vica_jax.train.settings import TrainSettings

TOKENIZER = Path(__file__).parents[1] / "goldens" / "tiny-vica2" / "checkpoint"
CFG = replace(micro.CFG, llm=replace(micro.LLM, vocab_size=512)).with_layout(
    replace(micro.CFG.layout, context_length=192)
)
RECORDS, BATCH = 11, 4  # 3 steps an epoch, the last a row short
PER_EPOCH = 3
BAD, LONG = "r3", "r5"  # a missing image, and one cut to the context length
# What does not tell of time: the same in every run of the same settings.
SAME = (
    "step",
    "loss",
    "grad_norm",
    "examples",
    "consumed",
    "epoch",
    "tokens",
    "target_tokens",
    "bad",
    "truncated",
)


def write_base(folder: Path, seed: int = 1) -> Path:
    """A native checkpoint with random weights."""
    rng = np.random.default_rng(seed)
    with CheckpointWriter(folder) as writer:
        for path, leaf in leaves(abstract_vica(CFG)[0]):
            values = np.ones(leaf.shape, np.float32)
            if not path.endswith("/scale"):
                values = 0.2 * rng.standard_normal(leaf.shape, np.float32)
            writer.write(path, values)
        writer.copy_tokenizer(TOKENIZER)
        writer.finish(family="vica_qwen", config=CFG)
    return folder


def write_data(folder: Path) -> Path:
    """``data.json`` and its images; one is missing, one text too long."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    records = []
    for i in range(RECORDS):
        name = f"r{i}"
        if name != BAD:
            pixels = rng.integers(0, 256, (20 + i, 40, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}.png")
        words = "room " * (200 if name == LONG else i + 1)
        turns = [
            {"from": "human", "value": "<image>\nWhere?"},
            {"from": "gpt", "value": f"It is {name} {words}."},
        ]
        records.append({"id": name, "image": f"{name}.png", "conversations": turns})
    (folder / "data.json").write_text(json.dumps(records))
    return folder


def make_settings(base: Path, data: Path, **changes: Any) -> TrainSettings:
    """Settings of two epochs, six steps, all of one program.

    Changes have the names of the fields, ``.`` written as ``__``.
    """
    values: dict[str, Any] = {
        "name": "short",
        "init_from": str(base),
        "trainable": micro.TABLE,
        "global_batch_size": BATCH,
        "per_device_batch_size": 1,
        "epochs": 2,
        "seed": 7,
        "dtype": "float32",
        "remat": "none",
        "frame_chunk": 2,
        "optimizer": {"rates": dict(micro.RATES), "schedule": "cosine"},
        "data": {
            "mixture": str(data / "data.json"),
            "image_folder": str(data),
            "num_frames": 2,
            "images": "padded",
            "max_bad_share": 0.5,
            "num_workers": 0,
            "shapes": plain(
                replace(micro.BUCKETS, lengths=(192,), targets=(192,), raw_side=64)
            ),
        },
        "checkpoint": {"every_steps": 1, "keep_last": 2, "keep_every": 0.0},
        "log": {"tensorboard": False, "line_every": 1},
    }
    for key, value in changes.items():
        at = values
        *path, last = key.split("__")
        for name in path:
            at = at.setdefault(name, {})
        at[last] = value
    return build(TrainSettings, values)


def refuse(*_: Any) -> None:
    raise AssertionError("no other form of the export was asked for")


def train(settings: TrainSettings, workdir: Path, **exporters: Any) -> Path:
    """``run`` in this process; returns the export."""
    forms = {"hf": refuse, "adapter": refuse, **exporters}
    return run(settings, Path(settings.init_from), workdir, Exporters(**forms))


def weights(export: Path) -> dict[str, bytes]:
    """Every leaf's bytes."""
    return {path: leaf.tobytes() for path, leaf in iter_leaves(export)}


def lines(path: Path) -> list[dict[str, Any]]:
    """A JSONL file whose every line must be whole."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def steps(workdir: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl says of each step, without times."""
    found = [x for x in lines(workdir / "metrics.jsonl") if "event" not in x]
    keep = lambda key: key in SAME or key.startswith("learning_rate")
    return [{k: v for k, v in entry.items() if keep(k)} for entry in found]


def events(workdir: Path, name: str) -> list[int]:
    """The steps of an event in metrics.jsonl."""
    found = lines(workdir / "metrics.jsonl")
    return [entry["step"] for entry in found if entry.get("event") == name]


def unusable(workdir: Path) -> list[list[tuple[int, int, str]]]:
    """(epoch, position, id) of bad and of truncated samples, as the files have them."""
    files = (workdir / "bad_samples.jsonl", workdir / "truncated_samples.jsonl")
    return [[(x["epoch"], x["position"], x["id"]) for x in lines(f)] for f in files]


def write_config(path: Path, settings: TrainSettings) -> Path:
    """Settings as a file for ``scripts.train --config``."""
    path.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    return ConfigDict({plain(settings)!r})\n"
    )
    return path
