"""Compare with recorded results of the published scorers.

    python -m scripts.verify_scores --cases=FILE

FILE is JSON with scored answers, aggregated sets, prompts, frame numbers, frame
selections and ScanQA sets (``tests/goldens/vsibench.json`` is one). Prints a line per
section, then every case that differs; exit status 1 if there is one.
"""

import sys
from typing import TYPE_CHECKING

from absl import flags

from scripts import cli

if TYPE_CHECKING:
    from vica_jax.eval.recorded import Section

FLAGS = flags.FLAGS
flags.DEFINE_string("cases", None, "file of recorded cases (JSON)")


def main() -> None:
    from vica_jax.eval.score_cases import check_file

    sections = check_file(FLAGS.cases)
    for section in sections:
        print_counts(section)
    failures = [(part.name, each) for part in sections for each in part.failures]
    for name, each in failures:
        print(f"FAIL {name} {each.case}: {each.what}")
    compared = sum(section.compared for section in sections)
    if failures:
        print(f"FAIL: {len(failures)} failures; {compared} quantities compared")
        sys.exit(1)
    print(f"PASS: {compared} quantities equal within their tolerances")


def print_counts(section: "Section") -> None:
    if section.absent["the section"]:
        print(f"{section.name:<22}absent")
        return
    print(
        f"{section.name:<22}{section.cases:>5} cases {section.compared:>6} compared"
        f"   largest difference {section.difference:.1e}"
        f"   {len(section.failures)} failed"
    )
    for what, counts in (
        ("absent", section.absent),
        ("not checked", section.unchecked),
    ):
        for key, count in sorted(counts.items()):
            if count:
                print(f"  {what}: {key} ({count})")


if __name__ == "__main__":
    cli.run(main, required=["cases"], compiles=False)
