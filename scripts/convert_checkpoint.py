"""Convert a checkpoint, either way.

    python -m scripts.convert_checkpoint --source=HF_DIR --target=DIR
    python -m scripts.convert_checkpoint --source=NATIVE --target=DIR --to=hf
    python -m scripts.convert_checkpoint --source=LLAVA_VIDEO --hiera=HIERA \
        --target=DIR                      # assembles ViCA2-Init
    python -m scripts.convert_checkpoint --source=WORKDIR[/checkpoints/STEP] \
        --target=DIR [--to=hf] [--base=DIR]   # the model of a training run
    python -m scripts.convert_checkpoint --source=HF_DIR_OR_NATIVE --target=DIR \
        --quantize=int8                   # half of bfloat16's bytes; inference only

Sources: ViCA2, ViCA and LLaVA-Video folders, SigLIP, Hiera and Qwen2 on their own, or a
hub id; a training run's folder (its last saved step) or one of its steps. Tensor by
tensor; the target appears when it is whole.
"""

from pathlib import Path

from absl import flags

from scripts import cli

FLAGS = flags.FLAGS
flags.DEFINE_string("source", None, "HF folder, hub id, native checkpoint or run")
flags.DEFINE_string("target", None, "folder to write; must not exist or be empty")
flags.DEFINE_enum("to", "native", ["native", "hf"], "form of the target")
flags.DEFINE_enum("dtype", None, ["float32", "bfloat16"], "default: as in the source")
flags.DEFINE_enum("quantize", None, ["int8"], "the language model's weights")
flags.DEFINE_string("base", None, "of a run: where the checkpoint it began with is now")
flags.DEFINE_string("hiera", None, "Hiera folder or hub id: assemble ViCA2-Init")
flags.DEFINE_integer("seed", 0, "seed of the fresh Hiera projector")


def main() -> None:
    from convert.load import check_target, resolve
    from vica_jax.checkpoint import find_step, is_checkpoint

    check_target(FLAGS.target)  # before a download
    source = resolve(FLAGS.source)
    native = is_checkpoint(source)
    run = None if native else find_step(source)
    if FLAGS.base and run is None:
        cli.fail("--base is for training runs: leave it out")
    if FLAGS.hiera and run:
        cli.fail("--hiera assembles a checkpoint from HF folders, not from a run")
    if FLAGS.hiera and FLAGS.to == "hf":
        cli.fail("--hiera assembles a native checkpoint: leave out --to=hf")
    if FLAGS.quantize and FLAGS.to == "hf":
        cli.fail("--quantize makes a native checkpoint: leave out --to=hf")
    if FLAGS.quantize and run:
        cli.fail("--quantize: convert the run first, then what that wrote")
    notes = convert_run(*run) if run else convert_model(source, native)
    for note in notes:
        print(f"note: {note}")
    print(f"wrote {FLAGS.target}")


def convert_run(checkpoints: Path, step: int) -> list[str]:
    """The model of a run's saved step, in the form asked for."""
    from convert.load import to_hf
    from vica_jax.train.export import export_native, open_trained

    if FLAGS.to == "hf":
        model = open_trained(checkpoints, step, FLAGS.base)
        notes = to_hf(model, FLAGS.target, dtype=FLAGS.dtype, progress=True)
    else:
        notes = []
        export_native(checkpoints, step, FLAGS.base, FLAGS.target, dtype=FLAGS.dtype)
    return [f"step {step} of {checkpoints}", *notes]


def convert_model(source: Path, native: bool) -> list[str]:
    """A checkpoint on its own, either way."""
    from convert.load import resolve, to_hf, to_native
    from convert.quantize import quantize_native

    if FLAGS.to == "hf":
        if not native:
            cli.fail(f"{source}: --to=hf takes a native checkpoint (manifest.json)")
        return to_hf(source, FLAGS.target, dtype=FLAGS.dtype, progress=True)
    if native and FLAGS.quantize:
        if FLAGS.dtype or FLAGS.hiera:
            cli.fail(f"{source}: --dtype and --hiera are for Hugging Face folders")
        return quantize_native(source, FLAGS.target)
    if native:
        cli.fail(
            f"{source}: this is a native checkpoint already: use --to=hf or --quantize"
        )
    return to_native(
        source,
        FLAGS.target,
        dtype=FLAGS.dtype,
        hiera=resolve(FLAGS.hiera) if FLAGS.hiera else None,
        seed=FLAGS.seed,
        quantize=FLAGS.quantize,
        progress=True,
    )


if __name__ == "__main__":
    cli.run(main, required=("source", "target"), compiles=False)
