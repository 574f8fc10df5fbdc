"""Convert a checkpoint, either way.

    python -m scripts.convert_checkpoint --source=HF_DIR --target=DIR
    python -m scripts.convert_checkpoint --source=NATIVE --target=DIR --to=hf
    python -m scripts.convert_checkpoint --source=LLAVA_VIDEO --hiera=HIERA \
        --target=DIR                      # assembles ViCA2-Init

Sources: ViCA2, ViCA and LLaVA-Video folders, SigLIP, Hiera and Qwen2 on their own, or a
hub id. Tensor by tensor; the target appears when it is whole.
"""

from absl import flags

from scripts import cli

FLAGS = flags.FLAGS
flags.DEFINE_string("source", None, "HF folder, hub id, or native checkpoint")
flags.DEFINE_string("target", None, "folder to write; must not exist or be empty")
flags.DEFINE_enum("to", "native", ["native", "hf"], "form of the target")
flags.DEFINE_enum("dtype", None, ["float32", "bfloat16"], "default: as in the source")
flags.DEFINE_string("hiera", None, "Hiera folder or hub id: assemble ViCA2-Init")
flags.DEFINE_integer("seed", 0, "seed of the fresh Hiera projector")


def main() -> None:
    from convert.load import check_target, resolve, to_hf, to_native
    from vica_jax.checkpoint import is_checkpoint

    check_target(FLAGS.target)  # before a download
    source = resolve(FLAGS.source)
    if FLAGS.to == "hf":
        if FLAGS.hiera:
            cli.fail("--hiera assembles a native checkpoint: leave out --to=hf")
        if not is_checkpoint(source):
            cli.fail(f"{source}: --to=hf takes a native checkpoint (manifest.json)")
        notes = to_hf(source, FLAGS.target, dtype=FLAGS.dtype, progress=True)
    else:
        if is_checkpoint(source):
            cli.fail(f"{source}: this is a native checkpoint already: use --to=hf")
        hiera = resolve(FLAGS.hiera) if FLAGS.hiera else None
        notes = to_native(
            source,
            FLAGS.target,
            dtype=FLAGS.dtype,
            hiera=hiera,
            seed=FLAGS.seed,
            progress=True,
        )
    for note in notes:
        print(f"note: {note}")
    print(f"wrote {FLAGS.target}")


if __name__ == "__main__":
    cli.run(main, required=("source", "target"))
