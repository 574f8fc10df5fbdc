"""How cost grows: with frames, questions about a video, rows of a batch, devices.

    python -m scripts.bench_scaling [--reduced] [--json=FILE] [--figure=FILE.png] \\
        [--rounds=3]

Seconds are medians of interleaved rounds on a small model in which the prompt rules,
beside model FLOPs (``vica_jax/train/flops.py``). Of devices it counts bytes: what each
receives in a training step, a prefill and a decode step, read from programs that are
compiled for 1, 2, 4 and 8 fake ones, each in a process of its own. ``--reduced`` takes
toy sizes: a test of this program, no measurement.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from scripts import cli
from scripts.idle import BUSY, Stopwatch, wait_until_idle
from vica_jax.files import write_text

ROOT = Path(__file__).parent.parent
DEVICES, FEW_DEVICES = (1, 2, 4, 8), (1, 4)  # the second: reduced


def measure(*, reduced: bool = False, rounds: int = 3) -> dict[str, Any]:
    """All numbers: ``frames``, ``questions``, ``rows`` and ``devices``."""
    import jax

    from scripts.scaling_sweeps import REDUCED, Measured, Sweeps

    sweeps = dataclasses.replace(REDUCED if reduced else Sweeps(), rounds=rounds)
    # First: its processes want the machine for themselves, and time nothing.
    counts = FEW_DEVICES if reduced else DEVICES
    devices = [x for count in counts for x in _on_devices(count, reduced)]
    found = Measured(sweeps)
    if not reduced:
        wait_until_idle()
    numbers: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "dtype": found.assistant.dtype.name,
        "reduced": reduced,
        "sweeps": dataclasses.asdict(sweeps),
        "others": {},
    }
    for name in ("frames", "questions", "rows"):
        print(f"{name} ...", flush=True)
        watch = Stopwatch()
        numbers[name] = getattr(found, name)()
        numbers["others"][name] = round(watch.others(), 3)
    return numbers | {"devices": devices}


def _on_devices(count: int, reduced: bool) -> list[dict[str, Any]]:
    """The records of ``scaling_devices`` in a process with so many host devices.

    Raises:
      OSError: that process failed; what it said stands on stderr.
    """
    print(f"devices: compiling for {count} ...", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "records"
        xla = os.environ.get("XLA_FLAGS", "")
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{xla} --xla_force_host_platform_device_count={count}",
            # Programs for several host devices can wait for ever out of a cache.
            "JAX_ENABLE_COMPILATION_CACHE": "false",
        }
        command = [sys.executable, "-m", "scripts.bench_scaling"]
        command += [f"--records={file}", "--reduced" if reduced else "--noreduced"]
        done = subprocess.run(command, cwd=ROOT, env=environment)
        if done.returncode:
            raise OSError(f"counting bytes on {count} devices failed: see above")
        return json.loads(file.read_text())


# ----------------------------------------------------------------------------- report
def report(numbers: dict[str, Any]) -> str:
    """Tables, and the lines that the goals speak of."""
    lines = [f"{numbers['device']}, {numbers['dtype']}"]
    if numbers["reduced"]:
        lines.append("reduced sizes: these are no measurements")
    for name, share in numbers["others"].items():
        if share > BUSY:
            lines.append(f"warning: {name}: others used {share:.0%} of the machine")
    lines += _table(
        "one question about a fresh video",
        ("frames", "tokens", "median s", "min s", "GFLOP", "GFLOP/s"),
        [
            (
                x["frames"],
                x["tokens"],
                x["median_s"],
                x["min_s"],
                x["flops"] / 1e9,
                x["flops"] / 1e9 / x["median_s"],
            )
            for x in numbers["frames"]
        ],
    )
    asked = numbers["questions"]
    lines += _table(
        "a session against answers one by one",
        ("questions", "session s", "min s", "one by one", "cheaper", "FLOPs less"),
        [
            (
                x["questions"],
                x["median_s"],
                x["min_s"],
                x["independent_s"],
                x["times_cheaper"],
                x["independent_flops"] / x["flops"],
            )
            for x in asked["points"]
        ],
    )
    line, single = asked["line"], asked["single"]["median_s"]
    lines.append(
        f"past the prefix a session grows by {line['per_question_s']:.4f} s a question "
        f"(a straight line explains {line['r_squared']:.1%}; alone a question costs "
        f"{single:.3f} s, {single / line['per_question_s']:.1f} times that)"
    )
    lines += _table(
        "rows of one batch, each with its own video",
        ("rows", "median s", "encode s", "prefill s", "step ms", "step ms/row"),
        [
            (
                x["rows"],
                x["median_s"],
                x["encode_s"],
                x["prefill_s"],
                1e3 * x["decode_step_s"],
                1e3 * x["decode_step_s"] / x["rows"],
            )
            for x in numbers["rows"]
        ],
    )
    rows = []
    for x in numbers["devices"]:
        expected = x["expected"]
        rows.append(
            (
                x["program"],
                x["devices"],
                x["collectives"],
                x["moved"]["total"] / 1e6,
                "" if expected is None else f"{expected / 1e6:.3f}",
            )
        )
    titles = ("program", "devices", "collectives", "MB moved", "arithmetic")
    lines += _table("bytes that a device receives in a step", titles, rows)
    if any(x["loops_uncounted"] for x in numbers["devices"]):
        lines.append("warning: some collectives stand in loops of unknown length")
    return "\n".join(lines)


def _table(
    title: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]
) -> list[str]:
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [
        max(11, len(head), *(len(row[i]) for row in cells))
        for i, head in enumerate(heads)
    ]

    def line(values: Sequence[str]) -> str:
        return " ".join(x.rjust(n) for x, n in zip(values, widths, strict=True))

    return ["", title, line(heads), *map(line, cells)]


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


# ------------------------------------------------------------------------ command line
def define_flags() -> None:
    """Here and not on import: another command may measure with this module."""
    flags.DEFINE_bool("reduced", False, "toy sizes, to test this program")
    flags.DEFINE_string("json", "", "file for the numbers")
    flags.DEFINE_string("figure", "", "PNG to draw")
    flags.DEFINE_integer("rounds", 3, "how often each point is timed", 1)
    flags.DEFINE_string("records", "", "(a process of the bench) where it writes bytes")


def main() -> None:
    given = flags.FLAGS
    if given.records:
        from scripts import scaling_devices

        cfg = scaling_devices.REDUCED if given.reduced else scaling_devices.CFG
        write_text(given.records, json.dumps(list(scaling_devices.measure(cfg))))
        return
    numbers = measure(reduced=given.reduced, rounds=given.rounds)
    print(f"\n{report(numbers)}")
    if given.json:
        write_text(given.json, json.dumps(numbers, indent=1) + "\n")
    if given.figure:
        from scripts.scaling_figure import draw

        draw(numbers, given.figure)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
