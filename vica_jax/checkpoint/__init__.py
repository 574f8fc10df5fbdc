"""Native checkpoints: a folder that holds a model, its configuration and tokenizer.

    manifest.json          written last: what the folder is, where every leaf lies
    tokenizer/             the tokenizer's own files, copied
    params/part-00000/     orbax checkpoints of at most 128 MiB each

Orbax holds a second copy of what it saves, so leaves are packed into *parts* of bounded
size in the order they arrive; a leaf larger than a part is stored as *blocks* of rows,
each in a part of its own. Writing a model and restoring one then take two parts of host
memory, whatever the model's size. Every block has a CRC-32 in the manifest, checked
whenever it is read: a damaged file is an error, never a wrong weight.

A folder appears by one rename when it is finished. Until then it is a hidden sibling,
``.NAME.partial-PID``, which is removed unless the process is killed.

Parameters are a nested dict of arrays; its leaves are named by paths such as
``llm/layers/0/attn/q_proj/kernel``.

A training run's own checkpoints (parameters in training, optimiser state, what was
consumed) are ``TrainingCheckpoints``, one folder for each saved step; the model of a
step is made into a native checkpoint by ``vica_jax.train.export``.

Importing this package brings neither jax nor orbax.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vica_jax.checkpoint.manifest import (
    FORMAT_VERSION,
    CheckpointError,
    Manifest,
    fingerprint,
    is_checkpoint,
    model_config_from_dict,
    model_config_to_dict,
    read_manifest,
)
from vica_jax.checkpoint.reader import iter_leaves, restore
from vica_jax.checkpoint.step import SavedStep, find_step, read_step, saved_steps
from vica_jax.checkpoint.writer import CheckpointWriter

if TYPE_CHECKING:
    from vica_jax.checkpoint.training import TrainingCheckpoints

__all__ = [
    "FORMAT_VERSION",
    "CheckpointError",
    "CheckpointWriter",
    "Manifest",
    "SavedStep",
    "TrainingCheckpoints",
    "find_step",
    "fingerprint",
    "is_checkpoint",
    "iter_leaves",
    "model_config_from_dict",
    "model_config_to_dict",
    "read_manifest",
    "read_step",
    "restore",
    "saved_steps",
]


def __getattr__(name: str) -> Any:
    if name != "TrainingCheckpoints":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # It needs jax and orbax from the start.
    return importlib.import_module("vica_jax.checkpoint.training").TrainingCheckpoints
