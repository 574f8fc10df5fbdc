"""Show a checkpoint's parameters: tree, shapes, dtypes, counts per part.

    python -m scripts.inspect_params --checkpoint=DIR [--depth=2]

Reads headers only, of a native checkpoint or an HF folder (shown in our names).
"""

import math

from absl import flags

from scripts import cli

FLAGS = flags.FLAGS
flags.DEFINE_string("checkpoint", None, "native checkpoint or HF folder")
flags.DEFINE_integer("depth", 0, "sum up below this depth; 0 lists every leaf")


def main() -> None:
    from convert.load import leaf_table, resolve

    family, table = leaf_table(resolve(FLAGS.checkpoint))
    if FLAGS.depth < 0:
        cli.fail(f"--depth must be at least 0, got {FLAGS.depth}")
    groups: dict[str, list[tuple[tuple[int, ...], str]]] = {}
    for path, entry in table.items():
        key = "/".join(path.split("/")[: FLAGS.depth]) if FLAGS.depth else path
        groups.setdefault(key, []).append(entry)
    for key, entries in groups.items():
        count = sum(math.prod(shape) for shape, _ in entries)
        dtypes = "/".join(sorted({dtype for _, dtype in entries}))
        shape = str(entries[0][0]) if not FLAGS.depth else f"{len(entries)} leaves"
        print(f"{key:<44} {shape:<22} {dtypes:<10} {count:>15,}")
    print(f"\n{family}: parameters per part")
    parts: dict[str, int] = {}
    for path, (shape, _) in table.items():
        name = path.split("/")[0]
        parts[name] = parts.get(name, 0) + math.prod(shape)
    for name, count in parts.items():
        print(f"  {name:<20} {count:>15,}")
    print(f"  {'all':<20} {sum(parts.values()):>15,}")


if __name__ == "__main__":
    cli.run(main, required=("checkpoint",), compiles=False)
