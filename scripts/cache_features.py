"""Run a frozen Hiera once over a stage's media and keep its features on disk.

    python -m scripts.cache_features --config=configs/vica2_stage3_spatial.py \\
        --config.init_from=NATIVE --config.data.hiera_cache=FOLDER [--shard=0/4]

Training with the same ``--config.data.hiera_cache`` then reads the features in place of
raw frames. 59 MB for a 64-frame video of ViCA2, 1.8 MB for an image. Running it again
goes on where it stopped.
"""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from scripts import cli

FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file("config", None, "configs/NAME.py[:variant]")
flags.DEFINE_string("shard", "0/1", "I/N: this command's part of the records")


def main() -> None:
    from tqdm import tqdm

    from vica_jax.config import build
    from vica_jax.train.hiera_cache import fill_cache
    from vica_jax.train.settings import TrainSettings

    settings = build(TrainSettings, CONFIG.value)
    first, _, count = FLAGS.shard.partition("/")
    if not (first.isdigit() and count.isdigit() and int(first) < int(count)):
        cli.fail(f"--shard={FLAGS.shard}: write I/N with 0 <= I < N, such as 0/4")
    with tqdm(desc="features", unit="record", file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = fill_cache(
            settings,
            Path(settings.init_from),
            shard=(int(first), int(count)),
            progress=progress,
        )
    for reason in (report.reasons or [])[:20]:
        print(f"unreadable: {reason}", file=sys.stderr)
    print(
        f"{report.written} written, {report.there} there already, {report.unreadable} "
        f"records unreadable, {report.text_only} without media"
    )


if __name__ == "__main__":
    cli.run(main, required=("config",))
