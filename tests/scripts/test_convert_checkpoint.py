"""``scripts.convert_checkpoint``: both ways, and stopped in the middle."""

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from command_line import run

from convert.safetensors_io import open_checkpoint
from vica_jax.checkpoint import is_checkpoint, read_manifest

ROOT = Path(__file__).parents[2]


def convert(source, target, *args, **options):
    return run("convert_checkpoint", *args, source=source, target=target, **options)


def test_there_and_back(vica2, tmp_path):
    first = convert(vica2, tmp_path / "native")
    assert (first.code, first.err) == (0, "")
    matched = "note: 215 tensors, 919,680 parameters matched\n"
    assert first.out == f"{matched}wrote {tmp_path / 'native'}\n"
    second = convert(tmp_path / "native", tmp_path / "hf", to="hf")
    assert (second.code, second.err) == (0, "")
    original, back = open_checkpoint(vica2), open_checkpoint(tmp_path / "hf")
    assert dict(back.config) == dict(original.config)
    assert back.shapes == original.shapes
    for name in original.names:
        assert back.read(name).tobytes() == original.read(name).tobytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf", "native"]


@pytest.mark.parametrize("to", ["native", "hf"])
def test_a_cast(vica, native, tmp_path, to):
    source = vica if to == "native" else native
    assert convert(source, tmp_path / "x", to=to, dtype="bfloat16").code == 0
    table = run("inspect_params", checkpoint=tmp_path / "x").out
    assert "bfloat16" in table and "float32" not in table
    if to == "hf":
        config = json.loads((tmp_path / "x" / "config.json").read_text())
        assert config["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize("form", ["hf", "native"])
def test_int8(vica, native, tmp_path, form):
    source, target = {"hf": vica, "native": native}[form], tmp_path / "int8"
    made = convert(source, target, quantize="int8")
    assert (made.code, made.err) == (0, "")
    assert "note: int8: the products of" in made.out
    table = run("inspect_params", checkpoint=target).out
    assert "kernel_scale" in table and "int8" in table
    told = convert(target, tmp_path / "hf", to="hf").line
    assert "for inference only: the Hugging Face form needs the checkpoint" in told


def test_int8_where_it_makes_no_sense(vica, native, tmp_path):
    refused = lambda *args, **flags: convert(*args, quantize="int8", **flags).line
    assert "leave out --to=hf" in refused(native, tmp_path / "x", to="hf")
    assert "are for Hugging Face" in refused(native, tmp_path / "x", dtype="bfloat16")
    assert "--quantize" in convert(vica, tmp_path / "x", quantize="int4").line
    assert not (tmp_path / "x").exists()


def test_a_bar_is_for_terminals(vica, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(io, "StringIO", Terminal)
    result = convert(vica, tmp_path / "native")
    assert result.code == 0 and "convert: 100%" in result.err and "93/93" in result.err


# ------------------------------------------------------------ in the middle
# The command, with a pause before each tensor, so that a signal meets it halfway.
SLOWLY = """
    import runpy, signal, sys, time
    from vica_jax.checkpoint import CheckpointWriter
    import convert.load

    # A shell that starts its jobs in the background has them ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    write, leaves = CheckpointWriter.write, convert.load.iter_leaves

    def slow_write(*args):
        time.sleep(0.1)
        write(*args)

    def slow_leaves(*args):
        for leaf in leaves(*args):
            time.sleep(0.1)
            yield leaf

    CheckpointWriter.write, convert.load.iter_leaves = slow_write, slow_leaves
    runpy.run_module("scripts.convert_checkpoint", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("to", ["native", "hf"])
@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_conversion_that_is_stopped(sent, to, vica, native, tmp_path):
    target = tmp_path / "target"
    source = vica if to == "native" else native
    command = [sys.executable, "-c", textwrap.dedent(SLOWLY)]
    command += [f"--source={source}", f"--target={target}", f"--to={to}"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and time.monotonic() < until:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    time.sleep(1)
    process.send_signal(signal.Signals[sent])
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0 and "wrote" not in out
    assert not target.exists()
    left = [path.name for path in tmp_path.iterdir()]
    if sent == "SIGKILL":  # nothing can be done at once, but nothing looks finished
        assert len(left) == 1 and left[0].startswith(".target.partial-")
        assert not is_checkpoint(tmp_path / left[0])
        assert not (tmp_path / left[0] / "config.json").exists()
        refused = run("generate", checkpoint=tmp_path / left[0], question="What?")
        assert refused.code == 1 and refused.err.startswith("error: ")
    else:
        word = {"SIGINT": "interrupted", "SIGTERM": "terminated"}[sent]
        assert err == f"error: {word}\n" and not left
    assert convert(source, target, to=to).code == 0
    if to == "native":
        assert read_manifest(target).family == "llava_qwen"


@pytest.mark.slow
def test_as_a_process(vica, tmp_path):
    command = [sys.executable, "-m", "scripts.convert_checkpoint", f"--source={vica}"]
    command += [f"--target={tmp_path / 'native'}"]
    for code in (0, 1):  # the second time the target is taken
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == code
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert done.stdout == ""
