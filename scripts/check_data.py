"""Look at a run's data before a device is touched: counts, faults, token lengths.

    python -m scripts.check_data --config=configs/X.py[:variant] [--workdir=check_data]
        [--config.data.mixture=FILE] [--config.KEY=VALUE] [--sample=200 | --full]
        [--strict]

Every record and the presence and header of every file it names are looked at; a sample
of the files is opened as training opens them, with --full every file. Writes
check_data.json (everything, all faults by name) and token_lengths.png into the workdir;
data.validation is looked at too. Ends with status 1 where no record can be used, with
--strict where one cannot.

``config.init_from`` gives tokenizer and layout; its weights are not read.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from scripts import cli

FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file("config", None, "configs/NAME.py[:variant]")
flags.DEFINE_string("workdir", "check_data", "folder of the report")
flags.DEFINE_integer("sample", 200, "files to open, drawn from all sources", 0)
flags.DEFINE_bool("full", False, "open every file")
flags.DEFINE_bool("strict", False, "end with status 1 if anything cannot be used")

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SMALL_FILES = ["*.json", "*.txt", "*.jinja"]


def read_model(init_from: str) -> tuple[Any, Any]:
    """Layout and tokenizer of a checkpoint, native or HF form, weights unread.

    Of a hub id the small files are downloaded.

    Raises:
      InputError: no checkpoint there, or none of a whole model.
    """
    from convert.hf_config import from_hf
    from convert.safetensors_io import read_json
    from vica_jax.checkpoint.manifest import is_checkpoint, read_manifest
    from vica_jax.data.tokenizer import load_tokenizer

    folder = Path(init_from)
    if not folder.exists():
        folder = download(init_from)
    if is_checkpoint(folder):
        manifest = read_manifest(folder)
        config, tokenizer = manifest.model_config, manifest.tokenizer_folder
    else:
        _, config = from_hf(read_json(folder / "config.json"), folder / "config.json")
        tokenizer = folder
    return config.layout, load_tokenizer(tokenizer)


def download(name: str) -> Path:
    """The small files of a hub id; ends the program where that cannot be done."""
    reason = "and no hub id such as org/name"
    if HUB_ID.fullmatch(name):
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(name, allow_patterns=SMALL_FILES))
        except Exception as error:  # the hub library raises many kinds
            reason = f"and as a hub id: {type(error).__name__}"
    cli.fail(
        f"init_from {name!r}: no such folder ({reason}): here any checkpoint with the "
        "same tokenizer and layout will do (--config.init_from=DIR)"
    )
    raise AssertionError


def main() -> None:
    from vica_jax.config import build
    from vica_jax.data import check_report
    from vica_jax.data.check import check_mixture
    from vica_jax.data.mixture import read_mixture
    from vica_jax.data.settings import DataSettings
    from vica_jax.files import write_text

    config, workdir = CONFIG.value, Path(FLAGS.workdir)
    settings = build(DataSettings, config.data, where="config.data")
    seed = config.get("seed", 0)
    layout, tokenizer = read_model(config.init_from)
    length = config.get("context_length") or layout.context_length
    layout = replace(layout, num_frames=settings.num_frames, context_length=length)
    mixtures = {"training": settings}
    if settings.validation:
        # A run reads it whole: nothing of it is excluded or held out.
        mixtures["validation"] = replace(
            settings, mixture=settings.validation, exclude="", validation=""
        )
    report: dict[str, Any] = {}
    workdir.mkdir(parents=True, exist_ok=True)
    for name, data in mixtures.items():
        found = check_mixture(
            read_mixture(data.mixture, seed=seed, exclude=data.exclude),
            tokenizer=tokenizer,
            layout=layout,
            settings=data,
            sample=None if FLAGS.full else FLAGS.sample,
            seed=seed,
            progress=True,
        )
        facts = report[name] = check_report.summarise(found)
        if name == "training":
            facts["epoch"] = check_report.epoch_facts(
                found,
                global_batch_size=config.global_batch_size,
                epochs=config.get("epochs", 1),
                max_steps=config.get("max_steps", 0),
                seed=seed,
            )
        for line in check_report.describe(facts):
            print(line)
        suffix = "" if name == "training" else f"-{name}"
        if facts["usable"]:
            check_report.plot_tokens(found, workdir / f"token_lengths{suffix}.png")
    target = workdir / "check_data.json"
    write_text(target, json.dumps(report, indent=1) + "\n")
    print(f"all of it: {target}, token_lengths.png")
    for facts in report.values():
        if not facts["usable"]:
            cli.fail(
                f"{facts['mixture']}: none of its {facts['records']:,} records can be "
                f"used: {check_report.first_reason(facts)}"
            )
        if FLAGS.strict and facts["bad"]:
            cli.fail(
                f"{facts['mixture']}: {facts['bad']:,} of {facts['records']:,} records "
                f"cannot be used (--strict): {check_report.first_reason(facts)}"
            )


if __name__ == "__main__":
    cli.run(main, required=("config",), compiles=False)
