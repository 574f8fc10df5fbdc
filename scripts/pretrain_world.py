"""Train the world's small ViCA2 from nothing; running the command again resumes it.

    python -m scripts.pretrain_world --config=configs/world_pretrain.py --workdir=DIR \\
        [--config.KEY=VALUE]

The workdir gets tokenizer/, checkpoints/, metrics.jsonl, curves.png and, at the end,
export/: a native checkpoint that the stages start from (``scripts.train``).
"""

import logging
import os
from pathlib import Path

from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags

from scripts import cli

FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file("config", None, "configs/NAME.py[:variant]")
flags.DEFINE_string("workdir", None, "folder of the run; what is there is resumed")


def main() -> None:
    absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("vica_jax").setLevel(logging.INFO)

    from vica_jax.config import build
    from vica_jax.pretrain.run import run
    from vica_jax.pretrain.settings import PretrainSettings

    settings = build(PretrainSettings, CONFIG.value)
    workdir = Path(FLAGS.workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cli.fail(f"--workdir={workdir}: no folder can be made here ({error.strerror})")
    print(f"{settings.name}: {os.path.relpath(run(settings, workdir))}")


if __name__ == "__main__":
    cli.run(main, required=("config", "workdir"))
