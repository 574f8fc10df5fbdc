"""How fast and how large: every part beside PyTorch's, in one run.

    python -m scripts.bench [--suite=cpu|memory|scaling|gpu|all] [--only=NAME,...] \\
        [--reduced] [--pairs=5] [--json=FILE] [--figure=FILE.png]

The CPU suite times each part in turn with its PyTorch peer, on the same weights and
inputs: ratios of our time to the peer's (of the medians and of the minima), temporaries
of the compiled program, peak memory of either side, compile time. Every case runs in a
process of its own and waits for an idle machine; disturbed runs are counted.
``--reduced`` takes smaller inputs, to see that all of it works. Needs the extra
[parity] (torch).

The other suites are commands of their own: whole processes' peak memory
(``bench_memory``), cost against frames, questions, rows and devices
(``bench_scaling``), one GPU at full size (``bench_gpu``).
Exit status 1 when results differ or a case failed.
"""

import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from absl import flags

from scripts import cli
from scripts.bench_figure import draw_ratios
from scripts.idle import wait_until_idle
from vica_jax.files import write_text

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "suite", "cpu", ["cpu", "memory", "scaling", "gpu", "all"], "what to measure"
)
flags.DEFINE_list("only", [], "names of the CPU suite's cases")
flags.DEFINE_bool("reduced", False, "smaller inputs; the ratios say less")
flags.DEFINE_integer("pairs", 5, "how often each side is timed", 1)
flags.DEFINE_string("json", "", "file for the numbers")
flags.DEFINE_string("figure", "", "PNG of the CPU suite's ratios")
flags.DEFINE_string("case", "", "one case in this process, as the command runs it")

ROW = "{:<52} {:>7} {:>8} {:>5} {:>5} {:>9} {:>9} {:>10} {:>10} {:>9} {:>9}"
TITLES = (
    *("case", "ratio", "(minima)", "bar", "goal", "ours s", "peer s"),
    *("temp. MB", "peak MB", "peer's", "compile s"),
)


def main() -> None:
    if FLAGS.case:
        return run_case(FLAGS.case)
    from scripts.bench_cpu import CASES

    names = [case.name for case in CASES]
    if unknown := [name for name in FLAGS.only if name not in names]:
        cli.fail(f"--only={unknown[0]}: take some of {', '.join(names)}")
    if FLAGS.suite in ("cpu", "all") and importlib.util.find_spec("torch") is None:
        cli.fail("the CPU suite needs torch: pip install -r requirements-parity.lock")
    suites = (
        ["cpu", "memory", "scaling", "gpu"] if FLAGS.suite == "all" else [FLAGS.suite]
    )
    numbers: dict[str, Any] = {"machine": machine(), "reduced": FLAGS.reduced}
    failed = []
    if "cpu" in suites:
        chosen = FLAGS.only or names
        numbers["cpu"] = []
        failed = cpu_suite(chosen, numbers)
        if FLAGS.figure and numbers["cpu"]:
            draw_ratios(numbers["cpu"], FLAGS.figure)
    for suite in suites:
        if suite != "cpu":
            numbers[suite] = other_suite(suite, failed)
            keep(numbers)
    if failed:
        cli.fail(f"failed or different: {', '.join(failed)}")


def keep(numbers: dict[str, Any]) -> None:
    """Write what there is so far: an interrupted run has its cases."""
    if FLAGS.json:
        write_text(FLAGS.json, json.dumps(numbers, indent=1) + "\n")


def cpu_suite(names: list[str], numbers: dict[str, Any]) -> list[str]:
    """Measure the cases into ``numbers``; the names of those that failed or differ."""
    rows, failed = numbers["cpu"], []
    print(ROW.format(*TITLES), flush=True)
    start = time.perf_counter()
    for place, name in enumerate(names):
        row = in_a_process(name)
        if row is None:
            failed.append(name)
            continue
        rows.append(row)
        keep(numbers)
        print(line(row), flush=True)
        if not row["same"]:
            print(f"  results differ: {row['gap']:.1e}, at most {row['most']:.0e}")
            failed.append(name)
        if row["disturbed"]:
            print(f"  others used the machine in {row['disturbed']} of its runs")
        spent = time.perf_counter() - start
        left = spent / (place + 1) * (len(names) - place - 1)
        print(f"{place + 1}/{len(names)}, about {left:.0f} s left", file=sys.stderr)
    bound = [row for row in rows if row["bar"] is not None]
    met = [row for row in bound if row["ratio"] <= row["bar"]]
    reached = [row for row in bound if row["ratio"] <= row["goal"]]
    print(f"{len(met)} of {len(bound)} at or under the bar, {len(reached)} at the goal")
    return failed


def in_a_process(name: str) -> dict[str, Any] | None:
    """A case's row; None where it failed, which has been said."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "row.json"
        command = [sys.executable, "-m", "scripts.bench", f"--case={name}"]
        command += [f"--json={file}", f"--pairs={FLAGS.pairs}"]
        command += [f"--{'' if FLAGS.reduced else 'no'}reduced"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not file.is_file():
            reason = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
            print(f"{name}: failed: {reason[-1]}", flush=True)
            return None
        return json.loads(file.read_text())


def run_case(name: str) -> None:
    from scripts.bench_case import measure
    from scripts.bench_cpu import CASES

    case = next((case for case in CASES if case.name == name), None)
    if case is None:
        cli.fail(f"--case={name}: take one of {', '.join(c.name for c in CASES)}")
        return
    row = measure(case, pairs=FLAGS.pairs, reduced=FLAGS.reduced, wait=wait_until_idle)
    if FLAGS.json:
        write_text(FLAGS.json, json.dumps(row, indent=1) + "\n")
    else:
        print(ROW.format(*TITLES))
        print(line(row))


def line(row: dict[str, Any]) -> str:
    million = lambda size: "-" if size is None else f"{size / 1e6:.0f}"
    return ROW.format(
        row["said"],
        f"{row['ratio']:.3f}",
        f"({row['ratio_of_minima']:.3f})",
        *("-" if row[name] is None else f"{row[name]:.3g}" for name in ("bar", "goal")),
        f"{row['median_s']['ours']:.4f}",
        f"{row['median_s']['theirs']:.4f}",
        million(row["temporary_bytes"]),
        million(row["peak_bytes"]["ours"]),
        million(row["peak_bytes"]["theirs"]),
        f"{row['compile_s']:.1f}",
    )


def other_suite(suite: str, failed: list[str]) -> Any:
    """The numbers of ``scripts.bench_SUITE``, in its process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "numbers.json"
        command = [sys.executable, "-m", f"scripts.bench_{suite}", f"--json={file}"]
        command += ["--reduced"] * FLAGS.reduced
        done = subprocess.run(command)
        if done.returncode:
            failed.append(suite)
        return json.loads(file.read_text()) if file.is_file() else None


def machine() -> dict[str, Any]:
    """What the figures hang on."""
    packages = ("jax", "jaxlib", "flax", "torch", "transformers", "numpy", "pillow")
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text().splitlines()
        names = [x.partition(":")[2].strip() for x in lines if "model name" in x]
        model = next(iter(names), model)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in packages},
        "date": datetime.now(UTC).date().isoformat(),
    }


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    cli.run(main)
