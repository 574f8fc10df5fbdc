"""Adapters out of a training run's saved steps, in PEFT's form."""

from pathlib import Path

from convert.peft import write_adapter
from convert.vica import model_rows
from vica_jax.checkpoint import read_step
from vica_jax.checkpoint.step import LeafReader
from vica_jax.models.config import VicaConfig

PARAMS = "params/"  # where a run's state keeps the leaves in training


def export_adapter(checkpoints: Path, step: int, cfg: VicaConfig, target: Path) -> None:
    """The adapters of one saved step, and whatever else it trained, as ``target``.

    Raises:
      InputError: the step is damaged, or the folder cannot be written.
    """
    saved = read_step(checkpoints, step)
    lora = saved.record["config"]["lora"]
    leaves = {
        path.removeprefix(PARAMS): LeafReader(saved=saved, path=path).read()
        for path in saved.leaves
        if path.startswith(PARAMS)
    }
    write_adapter(
        target,
        model_rows(cfg),
        leaves,
        alpha=lora["alpha"],
        dropout=lora["dropout"],
        base_name=saved.record["base"],
    )
