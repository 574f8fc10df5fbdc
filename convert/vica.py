"""The whole model: every part's table under its Hugging Face prefix.

``open_folder`` is the way in for a model folder or for a component's own folder
(SigLIP, Hiera, Qwen2): it tells the family, reads the config, audits every tensor name
and shape, and hands out the tensors one at a time.
"""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from convert.hf_config import (
    family_of,
    from_hf,
    hiera_from_hf,
    notes,
    published_hiera,
    qwen2_from_hf,
    require_family,
    siglip_from_hf,
)
from convert.hiera import REFERENCE, TRANSFORMERS, hiera_rows, outside_backbone
from convert.ops import ConversionError
from convert.projectors import (
    hiera_projector_rows,
    newline_rows,
    siglip_projector_rows,
)
from convert.qwen2 import qwen2_ignored, qwen2_rows
from convert.rules import AuditReport, Ignored, Row, audit, convert
from convert.safetensors_io import (
    CONFIG,
    CheckpointError,
    LazyCheckpoint,
    open_checkpoint,
)
from convert.siglip import TEXT_HALF, siglip_ignored, siglip_rows
from vica_jax.models.config import HieraConfig, Qwen2Config, SiglipConfig, VicaConfig

SIGLIP_PREFIX = "model.vision_tower.vision_tower.vision_model."
HIERA_PREFIX = "model.sam_tower.vision_tower."
# Where a component's own folder may keep its tower, most specific first.
SIGLIP_ANCHOR = "embeddings.patch_embedding.weight"
SIGLIP_FOLDER = ("vision_model.", "")
HIERA_FOLDER = {
    "hiera": ("patch_embed.proj.weight", ("hiera.", "")),
    "sam2": (
        "patch_embed.projection.weight",
        ("vision_encoder.backbone.", "backbone.", ""),
    ),
}

AnyConfig = VicaConfig | SiglipConfig | HieraConfig | Qwen2Config


def family_for(config: VicaConfig) -> str:
    return "vica_qwen" if config.hiera else "llava_qwen"


def model_rows(config: VicaConfig) -> list[Row]:
    """Every tensor of a ViCA2 checkpoint, or of ViCA where there is no Hiera."""
    width = config.llm.width
    rows = siglip_rows(config.siglip, SIGLIP_PREFIX)
    rows += siglip_projector_rows(config.siglip.width, width)
    if config.hiera is not None:
        rows += hiera_rows(config.hiera, HIERA_PREFIX)
        rows += hiera_projector_rows(config.hiera_out_width, width)
    return rows + newline_rows(width) + qwen2_rows(config.llm)


def model_ignored(config: VicaConfig) -> tuple[Ignored, ...]:
    """Tensors that a model folder may hold and we leave out, each with its reason."""
    return siglip_ignored(config.siglip, SIGLIP_PREFIX) + qwen2_ignored(config.llm)


def component_table(
    family: str, config: AnyConfig, names: Collection[str]
) -> tuple[list[Row], tuple[Ignored, ...]]:
    """Rows and ignored tensors of a component's own folder.

    ``names`` are the tensors found: they tell which prefix the writer used.
    """
    match family, config:
        case "qwen2", Qwen2Config():
            return qwen2_rows(config), qwen2_ignored(config)
        case "siglip", SiglipConfig():
            prefix = _prefix(names, SIGLIP_ANCHOR, SIGLIP_FOLDER)
            ignored = siglip_ignored(config, prefix) + TEXT_HALF
            return siglip_rows(config, prefix), ignored
        case "hiera" | "sam2", HieraConfig():
            prefix = _prefix(names, *HIERA_FOLDER[family])
            rules = TRANSFORMERS if family == "sam2" else REFERENCE
            ignored = outside_backbone(prefix) if family == "sam2" else ()
            return hiera_rows(config, prefix, rules), ignored
    raise ValueError(f"no table for family {family} and {type(config).__name__}")


def _prefix(names: Collection[str], anchor: str, choices: tuple[str, ...]) -> str:
    """The prefix under which the anchor is found; the first choice where it is not.

    The audit then reports everything that is missing under that prefix.
    """
    return next((p for p in choices if p + anchor in names), choices[0])


@dataclass(frozen=True)
class HfFolder:
    """An audited Hugging Face folder, no tensor read yet.

    ``family`` is vica_qwen, llava_qwen, qwen2, siglip, hiera or sam2, ``config`` our
    config of that family, ``notes`` what the config.json says without effect.
    """

    family: str
    config: AnyConfig
    checkpoint: LazyCheckpoint
    rows: tuple[Row, ...]
    report: AuditReport
    notes: tuple[str, ...] = ()

    @property
    def hf_config(self) -> dict[str, Any]:
        return dict(self.checkpoint.config)

    def tensors(
        self, dtype: DTypeLike | None = None
    ) -> Iterator[tuple[str, np.ndarray]]:
        """``(native_path, array)``, one at a time; see ``rules.convert``."""
        try:
            yield from convert(self.rows, self.checkpoint.read, dtype=dtype)
        except ConversionError as error:
            raise ConversionError(f"{self.checkpoint.path}: {error}") from None


def open_folder(
    folder: str | os.PathLike, families: tuple[str, ...] | None = None
) -> HfFolder:
    """Open and audit a folder of any known family.

    Args:
      folder: a local Hugging Face folder with config.json and safetensors.
      families: the families that will do; any by default.

    Raises:
      CheckpointError: a file is missing or damaged.
      ConfigError: config.json is of another family or holds an unsupported value.
      AuditError: tensor names or shapes do not fit the config.
    """
    return audit_checkpoint(open_checkpoint(folder), families)


def audit_checkpoint(
    checkpoint: LazyCheckpoint, families: tuple[str, ...] | None = None
) -> HfFolder:
    """``open_folder`` for a checkpoint whose headers are already read."""
    hf, path = checkpoint.config, checkpoint.path / CONFIG
    family = family_of(hf, path)
    if families is not None:
        require_family(hf, families, path)
    said: list[str] = []
    if family in ("vica_qwen", "llava_qwen"):
        _, config = from_hf(hf, path, hiera=_backbone(checkpoint))
        rows, ignored = model_rows(config), model_ignored(config)
        said = notes(hf)
    else:
        read = {"qwen2": qwen2_from_hf, "siglip": siglip_from_hf}
        config = read.get(family, hiera_from_hf)(hf, path)
        rows, ignored = component_table(family, config, checkpoint.tensors)
    report = audit(rows, checkpoint.shapes, ignored, where=str(checkpoint.path))
    return HfFolder(family, config, checkpoint, tuple(rows), report, tuple(said))


def _backbone(checkpoint: LazyCheckpoint) -> HieraConfig:
    """The published Hiera that fits, for a folder that does not state its sizes."""
    try:
        width = checkpoint.shape(HIERA_PREFIX + "patch_embed.proj.weight")[0]
    except (CheckpointError, IndexError):
        width = 0
    return published_hiera(width)
