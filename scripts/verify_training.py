"""Compare training with recorded runs of the PyTorch reference.

    python -m scripts.verify_training --golden=DIR [--only_failures]

Token ids, labels, loss, gradients of every parameter, optimiser groups, schedule and
five AdamW steps of two stages. Exit status 1 when anything is past its tolerance.
"""

import sys

from absl import flags

from scripts import cli

FLAGS = flags.FLAGS
flags.DEFINE_string("golden", None, "folder of recorded outputs")
flags.DEFINE_bool("only_failures", False, "print failing rows only")


def main() -> None:
    from configs import vica2_stage1_align, vica2_stage3_spatial, vica_finetune
    from convert.load import load_assistant
    from convert.rules import hf_tensors
    from convert.vica import model_rows
    from scripts.tables import print_rows
    from vica_jax.eval.golden import check_golden_folder
    from vica_jax.eval.training import FILES, Model, verify_training

    checkpoint = check_golden_folder(FLAGS.golden, FILES)
    assistant = load_assistant(checkpoint, dtype="float32")
    rows = model_rows(assistant.cfg)
    full = vica2_stage3_spatial if assistant.cfg.hiera else vica_finetune
    model = Model(
        cfg=assistant.cfg,
        params=assistant.params,
        tokenizer=assistant.tokenizer,
        to_hf=lambda tree: hf_tensors(tree, rows),
        names={row.hf: row.native for row in rows},
        tables={
            "stage1": vica2_stage1_align.get_config().trainable,
            "stage2_3": full.get_config().trainable,
        },
    )
    compared, notes = verify_training(
        model, FLAGS.golden, lambda what: print(f"{what} ...", file=sys.stderr)
    )
    print_rows(compared, notes, FLAGS.only_failures)
    sys.exit(any(not row.ok for row in compared))


if __name__ == "__main__":
    cli.run(main, required=("golden",))
