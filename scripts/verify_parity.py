"""Compare with the PyTorch reference.

    python -m scripts.verify_parity --golden=DIR
        recorded outputs of the reference: a table of errors and token matches
    python -m scripts.verify_parity --checkpoint=NATIVE --against=HF_DIR
        transformers' torch classes with the same weights, layer by layer
        (extra [parity]); writes parity.json beside the native weights

Exit status 1 when anything is past its tolerance.
"""

import sys

from absl import flags

from scripts import cli

FLAGS = flags.FLAGS
flags.DEFINE_string("golden", None, "folder of recorded outputs")
flags.DEFINE_string("checkpoint", None, "native checkpoint")
flags.DEFINE_string("against", None, "HF folder with the same weights")
flags.DEFINE_bool("only_failures", False, "print failing rows only")


def main() -> None:
    recorded = FLAGS.golden and not (FLAGS.checkpoint or FLAGS.against)
    if not recorded and not (FLAGS.checkpoint and FLAGS.against and not FLAGS.golden):
        cli.fail("give --golden=DIR, or --checkpoint=NATIVE with --against=HF_DIR")
    failed = golden() if recorded else against()
    sys.exit(1 if failed else 0)


def golden() -> bool:
    from tqdm import tqdm

    from convert.load import load_assistant
    from scripts.tables import print_rows
    from vica_jax.eval.golden import check_golden_folder, verify_golden

    checkpoint = check_golden_folder(FLAGS.golden)
    assistant = load_assistant(checkpoint, dtype="float32")
    with tqdm(desc="cases", unit="case", file=sys.stderr) as bar:

        def progress(done: int, total: int, what: str) -> None:
            bar.total, bar.n = total, done
            bar.set_postfix_str(what)

        rows, notes = verify_golden(assistant, FLAGS.golden, progress)
    print_rows(rows, notes, FLAGS.only_failures)
    return any(not row.ok for row in rows)


def against() -> bool:
    from convert.compare import verify_against

    report = verify_against(FLAGS.checkpoint, FLAGS.against)
    for row in report["rows"]:
        if row["ok"] and FLAGS.only_failures:
            continue
        mark = "" if row["ok"] else "  FAIL"
        print(f"{row['module']:<20} {row['part']:<28} {row['max_rel']:.2e}{mark}")
    verdict = "equal within tolerance" if report["ok"] else "DIFFERENT"
    print(f"worst relative error {report['worst']:.2e}: {verdict}")
    return not report["ok"]


if __name__ == "__main__":
    cli.run(main)
