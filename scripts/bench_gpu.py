"""Full-size speed on one GPU with random weights: inference, training, attention.

    python -m scripts.bench_gpu [--reduced] [--json=FILE] [--budget_s=600] \\
        [--groups=inference,training,torch,attention] [--profile=DIR] \\
        [--train_layers=N] [--repeats=5]

Every part is timed after its compilation, several times; the table gives medians and
minima beside floors and goals. Shares are of 790 TFLOP/s, what large bfloat16 products
reach on an H100 or H200 (measured, not the data sheet); model FLOPs are those of
``vica_jax/train/flops.py``. Peak memory is the process's so far.

Each group runs in a process of its own, which has the whole device and cannot harm the
others; a part that fails is recorded with its reason and the next one begins. When the
budget is spent, what is left is skipped and named. Exit status 1 only when no part ran.
``--reduced`` takes toy sizes: a test of this program on any machine, no measurement.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from scripts import cli
from scripts.gpu_timing import Options, Row, Skip
from vica_jax.files import write_text

ROOT = Path(__file__).parent.parent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Parts of one process: ``make(options).PART() -> rows``, and its share of time."""

    make: Callable[[Options], Any]
    weight: int  # of the budget, beside the groups that are still to come
    parts: tuple[str, ...]  # in the order in which they are worth their time


# What a group needs is imported by the process that runs it: one that lacks a package
# fails alone.
def _machine(options: Options) -> Any:
    from scripts.gpu_machine import Machine

    return Machine(options)


def _inference(options: Options) -> Any:
    from scripts.gpu_inference import Inference

    return Inference(options)


def _training(options: Options) -> Any:
    from scripts.gpu_training import Training

    return Training(options)


def _torch(options: Options) -> Any:
    from scripts.gpu_torch import Torch

    return Torch(options)


def _attention(options: Options) -> Any:
    from scripts.gpu_attention import AttentionWays

    return AttentionWays(options)


# In the order in which they run. A further part is a method and its name here.
GROUPS = {
    "machine": Group(make=_machine, weight=1, parts=("matmul", "copy")),
    "inference": Group(
        make=_inference,
        weight=10,
        parts=(
            "encode",
            "prefill",
            "decode_1",
            "decode_18_shared",
            "end_to_end",
            "decode_8",
            "decode_8_shared",
            "prefill_blockwise",
            "siglip",
            "hiera",
        ),
    ),
    "training": Group(make=_training, weight=6, parts=("train",)),
    "torch": Group(make=_torch, weight=4, parts=("torch_1", "torch_8")),
    "attention": Group(
        make=_attention,
        weight=4,
        parts=tuple(
            f"{where}_{way}"
            for where in ("qwen2", "siglip", "hiera")
            for way in ("auto", "cudnn", "blockwise")
        ),
    ),
}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers")
GRACE_S = 5  # past the budget, before a process is ended
COLUMNS = {
    "median ms": ("median_s", 1e3, ".2f"),
    "min ms": ("min_s", 1e3, ".2f"),
    "compile s": ("compile_s", 1, ".1f"),
    "TFLOP/s": ("flops_per_s", 1e-12, ".1f"),
    "% of 790": ("share_of_reference", 100, ".1f"),
    "GB/s": ("bytes_per_s", 1e-9, ".0f"),
    "tokens/s": ("tokens_per_s", 1, ",.0f"),
    "floor ms": ("floor_s", 1e3, ".2f"),
    "goal ms": ("goal_s", 1e3, ".0f"),
    "goal tok/s": ("goal_tokens_per_s", 1, ",.0f"),
    "peak GB": ("peak_bytes", 1e-9, ".1f"),
}


# -------------------------------------------------------------------- the whole bench
def measure(
    options: Options, *, budget_s: float = 600.0, groups: Sequence[str] = ()
) -> dict[str, Any]:
    """All numbers: versions, device, and one record for each part of ``groups`` (all).

    A record has ``group``, ``part``, ``status`` (ok, failed or skipped), ``reason``
    unless ok, ``rows`` and ``seconds``. Groups run in processes of their own, one after
    the other.
    """
    groups = tuple(groups or GROUPS)
    end = time.monotonic() + budget_s
    found: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
        "versions": versions(),
        "options": dataclasses.asdict(options),
        "budget_s": budget_s,
        "device": None,
        "records": [],
    }
    for number, name in enumerate(groups):
        left = end - time.monotonic()
        weights = [GROUPS[other].weight for other in groups[number:]]
        share = left * weights[0] / sum(weights)
        heard = _in_a_process(name, options, left, share)
        for record in heard:
            if "device" in record:
                found["device"] = found["device"] or record["device"]
            else:
                found["records"].append(record)
    found["seconds"] = round(budget_s - (end - time.monotonic()), 1)
    return found


def _in_a_process(
    name: str, options: Options, left: float, share: float
) -> list[dict[str, Any]]:
    """The records of a group, complete whatever becomes of its process."""
    parts = GROUPS[name].parts
    if left <= 0:
        return [_skipped(name, part, "the budget is spent") for part in parts]
    print(f"{name}: {left:.0f} s left", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "records"
        file.touch()
        given = [
            f"--{'' if value else 'no'}{key}"
            if value is True or value is False
            else f"--{key}={value}"
            for key, value in dataclasses.asdict(options).items()
        ]
        command = [sys.executable, "-m", "scripts.bench_gpu", *given]
        command += [f"--group={name}", f"--records={file}", f"--budget_s={share}"]
        # The process has the device for itself.
        environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92", **os.environ}
        child = subprocess.Popen(command, cwd=ROOT, env=environment)
        reason = "the process of its group ended before"
        try:
            status = child.wait(left + GRACE_S)
            reason += f" (exit status {status})"
        except subprocess.TimeoutExpired:
            reason = "the budget was spent"
        finally:
            _end(child)
        heard = [json.loads(line) for line in file.read_text().splitlines()]
    return list(_completed(name, parts, heard, reason))


def _completed(
    name: str, parts: Sequence[str], heard: Sequence[dict[str, Any]], reason: str
) -> Iterator[dict[str, Any]]:
    """A group's records with those that its process did not come to write.

    A part that was begun and not finished has failed, the others were skipped.
    """
    yield from (record for record in heard if "device" in record)
    begun = {record["part"] for record in heard if record.get("status") == "begun"}
    done = {
        record["part"]: record
        for record in heard
        if "part" in record and record["status"] != "begun"
    }
    for part in parts:
        if part in done:
            yield done[part]
        elif part in begun:
            yield _record(name, part, "failed", reason=reason)
        else:
            yield _skipped(name, part, reason)


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


# ------------------------------------------------------------------------- one group
def run_group(
    name: str,
    options: Options,
    tell: Callable[[dict[str, Any]], None],
    *,
    budget_s: float = float("inf"),
) -> None:
    """Run a group's parts here, one after the other; ``tell`` gets each record.

    A part that is about to begin past the budget is skipped.
    """
    group, end = GROUPS[name], time.monotonic() + budget_s
    try:
        parts = group.make(options)
    except Exception as error:  # what all parts need is missing
        for part in group.parts:
            tell(_refused(name, part, error))
        return
    for part in group.parts:
        if time.monotonic() > end:
            tell(_skipped(name, part, "the group's share of the budget is spent"))
            continue
        print(f"  {part} ...", flush=True)
        tell(_record(name, part, "begun"))
        start = time.monotonic()
        try:
            rows = getattr(parts, part)()
        except Exception as error:  # recorded; the next part may well run
            tell(_refused(name, part, error, seconds=time.monotonic() - start))
        else:
            peak = {"peak_bytes": bytes_} if (bytes_ := _peak(name)) else {}
            rows = [peak | row for row in rows]
            seconds = round(time.monotonic() - start, 1)
            tell(_record(name, part, "ok", rows=rows, seconds=seconds))


def _device(name: str) -> str | None:
    """What this process's framework calls its device.

    The process of the group ``torch`` leaves the device's memory to torch.
    """
    if name == "torch":
        from convert.torch_gpu import device_name

        return device_name()
    import jax

    return jax.devices()[0].device_kind


def _peak(name: str) -> int | None:
    """Of this process's device memory, where a group runs in jax and it says."""
    if name == "torch":
        return None
    from scripts.gpu_timing import device_memory

    return device_memory().get("peak_bytes_in_use")


def _record(name: str, part: str, status: str, **rest: Any) -> dict[str, Any]:
    return {"group": name, "part": part, "status": status, **rest}


def _skipped(name: str, part: str, reason: str) -> dict[str, Any]:
    return _record(name, part, "skipped", reason=reason)


def _refused(name: str, part: str, error: Exception, **rest: Any) -> dict[str, Any]:
    """The record of a part that raised: skipped where it said so itself."""
    if isinstance(error, Skip):
        return _record(name, part, "skipped", reason=str(error), **rest)
    traceback.print_exception(error)
    first = (str(error).strip().splitlines() or [""])[0]
    reason = f"{type(error).__name__}: {first:.300}"
    return _record(name, part, "failed", reason=reason, **rest)


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


# ----------------------------------------------------------------------------- report
def report(numbers: dict[str, Any]) -> str:
    """The table, and below it what failed or was skipped."""
    said = ", ".join(f"{name} {text}" for name, text in numbers["versions"].items())
    lines = [f"{numbers['device'] or 'no device'}; {said}; {numbers['date']}"]
    if numbers["options"]["reduced"]:
        lines.append("reduced sizes: these are no measurements")
    ran = [record for record in numbers["records"] if record["status"] == "ok"]
    rows = [row for record in ran for row in record["rows"]]
    shown = {
        title: form
        for title, form in COLUMNS.items()
        if any(row.get(form[0]) is not None for row in rows)
    }
    width = max([len(row["name"]) for row in rows], default=4)
    lines.append(" ".join([" " * width, *(f"{title:>10}" for title in shown)]))
    for row in rows:
        cells = [cell(row, *form) for form in shown.values()]
        line = " ".join([f"{row['name']:<{width}}", *(f"{c:>10}" for c in cells)])
        lines.append(f"{line}  {row.get('note', '')}".rstrip())
    for record in numbers["records"]:
        if record["status"] != "ok":
            place = f"{record['group']}.{record['part']}"
            lines.append(f"{record['status']}: {place}: {record['reason']}")
    lines.append(f"{numbers['seconds']:.0f} s of {numbers['budget_s']:.0f} s used")
    return "\n".join(lines)


def cell(row: Row, key: str, factor: float, form: str) -> str:
    value = row.get(key)
    return "" if value is None else format(value * factor, form)


# ------------------------------------------------------------------------ command line
def define_flags() -> None:
    """Here and not on import: another command may measure with this module."""
    flags.DEFINE_bool("reduced", False, "toy sizes, to test this program")
    flags.DEFINE_string("json", "", "file for the numbers")
    flags.DEFINE_float("budget_s", 600, "seconds after which parts are skipped", 0)
    flags.DEFINE_list("groups", list(GROUPS), f"which of {', '.join(GROUPS)}")
    flags.DEFINE_string("profile", "", "folder for jax.profiler traces")
    flags.DEFINE_integer("train_layers", 0, "of a training step; 0: as fit", 0)
    flags.DEFINE_integer("repeats", 5, "how often a part is timed", 2)
    flags.DEFINE_string("group", "", "(a process of the bench) the group it runs")
    flags.DEFINE_string("records", "", "(a process of the bench) where it writes")


def main() -> None:
    given = flags.FLAGS
    options = Options(
        reduced=given.reduced,
        repeats=given.repeats,
        profile=os.path.abspath(given.profile) if given.profile else "",
        train_layers=given.train_layers,
    )
    if given.group:
        return _process(given.group, options, given.records, given.budget_s)
    if unknown := set(given.groups) - set(GROUPS):
        cli.fail(f"--groups: no {min(unknown)!r}: take some of {', '.join(GROUPS)}")
    numbers = measure(options, budget_s=given.budget_s, groups=given.groups)
    print(f"\n{report(numbers)}")
    if given.json:
        write_text(given.json, json.dumps(numbers, indent=1) + "\n")
    if not any(record["status"] == "ok" for record in numbers["records"]):
        cli.fail("no part ran")


def _process(name: str, options: Options, records: str, budget_s: float) -> None:
    """One group, its records written as they come."""
    with open(records, "a") as file:

        def tell(record: dict[str, Any]) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()

        tell({"device": _device(name)})
        run_group(name, options, tell, budget_s=budget_s)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
