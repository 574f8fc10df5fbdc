"""What a training run is told, as frozen dataclasses.

``configs/*.py`` write them as ml_collections ConfigDicts; ``vica_jax.config.build``
turns one into ``TrainSettings`` and refuses unknown keys and wrong types.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vica_jax.data.settings import DataSettings
from vica_jax.errors import InputError
from vica_jax.models.stack import Remat
from vica_jax.train.lora import LoraConfig


class SettingsError(InputError):
    """A training setting out of its range, or settings that exclude each other."""


def check_least(settings: Any, least: float, *names: str) -> None:
    """Raise SettingsError where a field is below ``least`` or no finite number."""
    for name in names:
        value = getattr(settings, name)
        if not least <= value < math.inf:
            raise SettingsError(f"{name}: must be >= {least:g}, got {value}")


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW with a rate per group of parameters and one schedule for all.

    ``rates`` name the groups that ``TrainSettings.trainable`` speaks of; with LoRA the
    adapters take ``lora`` if it is there and ``base`` otherwise. ``moment_dtype``
    float32 or bfloat16 (of the first moment).
    """

    rates: Mapping[str, float]
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_ratio: float = 0.03  # of all steps, rounded up
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0  # not of biases and layer norms
    clip_norm: float = 1.0  # of all gradients together; 0: not clipped
    moment_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        for name, rate in self.rates.items():
            if not 0 <= rate < math.inf:
                raise SettingsError(f"rates.{name}: must be >= 0, got {rate}")
        if not 0 <= self.warmup_ratio <= 1:
            raise SettingsError(
                f"warmup_ratio: must lie in 0..1, got {self.warmup_ratio}"
            )
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(
                    f"{name}: must lie in [0, 1), got {getattr(self, name)}"
                )
        check_least(self, 0.0, "weight_decay", "clip_norm")
        if not self.eps > 0:
            raise SettingsError(f"eps: must be positive, got {self.eps}")


@dataclass(frozen=True, kw_only=True)
class MeshSettings:
    """Devices along each mesh axis; one of them may be -1: all that are left."""

    data: int = 1
    fsdp: int = -1
    tensor: int = 1

    def sizes(self, devices: int) -> dict[str, int]:
        """Axis sizes for a number of devices.

        Raises:
          SettingsError: they cannot be divided so.
        """
        sizes = {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}
        free = [name for name, size in sizes.items() if size == -1]
        known = math.prod(size for size in sizes.values() if size != -1)
        if len(free) > 1 or min(known, *sizes.values(), 1) < -1 or 0 in sizes.values():
            raise SettingsError(
                f"mesh {sizes}: sizes are positive, one of them may be -1 (the rest)"
            )
        if devices % known or (not free and devices != known):
            raise SettingsError(
                f"mesh {sizes} does not fit {devices} devices: choose "
                "--config.mesh.data, --config.mesh.fsdp and --config.mesh.tensor so "
                "that their product is the number of devices"
            )
        if free:
            sizes[free[0]] = devices // known
        return sizes


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """When the state is saved, and which saves are kept.

    ``every`` is a share of all steps (0.05: twenty saves); ``every_steps`` overrides
    it. The newest ``keep_last`` are kept, and for ever those at each multiple of
    ``keep_every`` of all steps (0: none).
    """

    every: float = 0.05
    every_steps: int = 0
    keep_last: int = 2
    keep_every: float = 0.05

    def __post_init__(self):
        check_least(self, 1, "keep_last")
        check_least(self, 0, "every_steps")
        for name in ("every", "keep_every"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(
                    f"{name}: a share of all steps, 0..1, got {getattr(self, name)}"
                )
        if not self.every and not self.every_steps:
            raise SettingsError(
                "every: 0 of all steps: give a share such as 0.05, or every_steps"
            )

    def save_steps(self, total: int) -> int:
        """Steps between two saves."""
        return self.every_steps or max(1, round(self.every * total))

    def keep_steps(self, total: int) -> int | None:
        """Every so many steps a save is kept for ever, a multiple of the save steps."""
        if not self.keep_every:
            return None
        save = self.save_steps(total)
        return max(1, round(self.keep_every * total / save)) * save


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """What is written beside metrics.jsonl and curves.png."""

    line_every: int = 10  # steps between two progress lines where there is no terminal
    tensorboard: bool = True
    wandb_project: str = ""  # empty: no Weights & Biases
    peak_tflops: float = 0.0  # of one device, for MFU; 0: known devices only
    progress: bool = True

    def __post_init__(self):
        check_least(self, 1, "line_every")
        check_least(self, 0.0, "peak_tflops")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """One stage of training.

    ``init_from`` is a native checkpoint, or an HF folder that is converted first.
    ``trainable`` is the stage's table, ``"pattern=group, pattern=group"``: a leaf takes
    the first row whose regular expression matches its whole path; the group is one of
    ``optimizer.rates`` or ``frozen`` (``train/partition``).
    ``context_length`` cuts sequences; 0 takes the checkpoint's.
    """

    name: str
    init_from: str
    trainable: str
    data: DataSettings
    optimizer: OptimizerSettings
    global_batch_size: int
    per_device_batch_size: int = 1
    epochs: int = 1
    max_steps: int = 0  # 0: all epochs
    seed: int = 0
    context_length: int = 0
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of compute and frozen weights
    remat: Remat = "full"
    frame_chunk: int = 8  # frames encoded at a time on each device
    mesh: MeshSettings = field(default_factory=MeshSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    log: LogSettings = field(default_factory=LogSettings)
    lora: LoraConfig | None = None
    validate_every: int = 0  # steps; 0: never
    validation_batches: int = 0  # global batches of one validation; 0: all
    export_hf: bool = False  # an HF folder at the end, beside the native one
    export_hf_every: int = 0  # steps; 0: at the end only

    def __post_init__(self):
        check_least(self, 1, "global_batch_size", "per_device_batch_size", "epochs")
        check_least(self, 1, "frame_chunk")
        check_least(self, 0, "max_steps", "seed", "context_length", "validate_every")
        check_least(self, 0, "validation_batches", "export_hf_every")
        if not self.init_from:
            raise SettingsError(
                "init_from: name the checkpoint to start from "
                "(--config.init_from=DIR, native or HF form)"
            )

    def accumulation(self, batch_shards: int) -> int:
        """Micro-batches of one step where the batch is split ``batch_shards`` ways.

        Raises:
          SettingsError: the global batch is no multiple of one micro-batch.
        """
        micro = self.per_device_batch_size * batch_shards
        if self.global_batch_size % micro:
            raise SettingsError(
                f"global_batch_size {self.global_batch_size} is no multiple of "
                f"{micro} = per_device_batch_size {self.per_device_batch_size} x "
                f"{batch_shards} devices along data and fsdp: change one of them, or "
                "move devices to the tensor axis"
            )
        return self.global_batch_size // micro
