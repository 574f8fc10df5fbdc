"""Train a stage; running the command again resumes it.

    python -m scripts.train --config=configs/vica2_stage3_spatial.py --workdir=DIR \\
        [--config.init_from=DIR] [--config.data.mixture=FILE] [--config.KEY=VALUE]
    python -m scripts.train --config=configs/vica2_stage1_align.py:smoke --workdir=DIR

The same command serves one device, many, and several hosts: a SLURM or Open MPI
launcher is recognised, otherwise give --coordinator, --num_processes and --process_id
to each. The workdir gets checkpoints/, metrics.jsonl, TensorBoard events,
bad_samples.jsonl, curves.png and, at the end, export/ (a native checkpoint; export-hf/
with --config.export_hf).
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
flags.DEFINE_string("coordinator", None, "address:port of process 0, several hosts")
flags.DEFINE_integer("num_processes", None, "number of processes in all")
flags.DEFINE_integer("process_id", None, "this process's number, from 0")


def main() -> None:
    absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("vica_jax").setLevel(logging.INFO)
    # What plan_memory counts on; XLA's own default leaves a quarter of a GPU unused.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    import jax

    from convert.load import resolve, to_hf, to_native
    from convert.trained import export_adapter
    from vica_jax.checkpoint import is_checkpoint
    from vica_jax.config import build
    from vica_jax.train.distributed import failures_named, initialize, synchronize
    from vica_jax.train.run import Exporters, run
    from vica_jax.train.settings import TrainSettings

    settings = build(TrainSettings, CONFIG.value)
    initialize(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    workdir = Path(FLAGS.workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cli.fail(f"--workdir={workdir}: no folder can be made here ({error.strerror})")
    base = Path(settings.init_from)
    if not is_checkpoint(base):  # an HF folder or hub id: converted once
        base = workdir / "base"
        if jax.process_index() == 0 and not is_checkpoint(base):
            to_native(resolve(settings.init_from), base, progress=True)
        synchronize("base")
    exporters = Exporters(hf=to_hf, adapter=export_adapter)
    with failures_named():
        export = run(settings, base, workdir, exporters)
    if jax.process_index() == 0:
        print(f"{settings.name}: {os.path.relpath(export)}")


if __name__ == "__main__":
    cli.run(main, required=("config", "workdir"))
