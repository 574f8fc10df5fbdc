"""Peak memory of whole processes at full size, on the CPU: encoders, a long prefill.

    python -m scripts.bench_memory [--reduced] [--json=FILE]

Each part runs once in a process of its own, float32, random weights: both encoders with
their projectors on 64 and 32 frames (``vica2_7b``), and the prefill of 22,528 tokens by
a Qwen2-0.5B. What is told is the most the process ever held (``VmHWM``: program,
compiler, weights, inputs and results), beside what the compiled program says of its
temporaries. About ten minutes on two cores; ``--reduced`` takes fewer frames and
tokens, and its peaks say less. Linux only.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from scripts import cli
from scripts.bench_case import held_bytes
from scripts.bench_inputs import frames, text_model, tokens
from vica_jax.decode.generate import encode, prefill
from vica_jax.files import write_text
from vica_jax.models.variants import QWEN2_0_5B, VARIANTS
from vica_jax.models.vica import Vica, abstract_vica

BARS = {"encode": 8e9, "prefill": 6e9}  # bytes, at full size
SAID = {
    "encode": "encode {} + {} frames, published towers",
    "prefill": "prefill {:,} tokens, Qwen2-0.5B",
}
ENCODERS = ("siglip", "siglip_projector", "hiera", "hiera_projector", "newline")


def measure(reduced: bool) -> list[dict[str, Any]]:
    """A row for each part, each from a process of its own."""
    rows = []
    for name in BARS:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "row.json"
            command = [sys.executable, "-m", "scripts.bench_memory", f"--part={name}"]
            command += [f"--json={file}", *["--reduced"] * reduced]
            print(f"{name} ... (minutes)", file=sys.stderr, flush=True)
            done = subprocess.run(command, stdout=subprocess.DEVNULL)
            if done.returncode:
                cli.fail(f"the process of {name} ended with {done.returncode}")
            rows.append(json.loads(file.read_text()))
    return rows


def run_part(name: str, reduced: bool) -> dict[str, Any]:
    """Compile, draw weights, run once; the row of a part."""
    cfg, program, inputs, sizes = PARTS[name](reduced)
    shapes = abstract_vica(cfg)[0]
    names = ENCODERS if name == "encode" else ("newline", "llm")
    shapes = {key: shapes[key] for key in names}
    start = time.perf_counter()
    compiled = program(shapes).compile()
    compile_s = time.perf_counter() - start
    params = jax.tree.map(_draw, shapes)
    start = time.perf_counter()
    jax.block_until_ready(compiled(params, *inputs))
    return {
        "name": name,
        "said": SAID[name].format(*sizes),
        "peak_bytes": held_bytes("VmHWM"),
        "bar": None if reduced else BARS[name],
        "weights_bytes": sum(x.nbytes for x in jax.tree.leaves(params)),
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "compile_s": compile_s,
        "seconds": time.perf_counter() - start,
    }


def _encode(reduced: bool):
    cfg, count = VARIANTS["vica2_7b"], 4 if reduced else 64
    half = count // cfg.layout.frame_stride
    size = cfg.siglip.image_size
    batch = {
        "frames": frames(count, size, size)[None],
        "hiera_frames": frames(half, 512, 640)[None],
        "hiera_frame_sizes": np.array([[480, 640]], np.int32),
    }
    program = lambda shapes: encode.lower(Vica(cfg), shapes, batch)
    return cfg, program, (batch,), (count, half)


def _prefill(reduced: bool):
    cfg, length = text_model(QWEN2_0_5B), 2048 if reduced else 22_528
    ids = tokens(1, length, cfg.llm.vocab_size)
    bank = np.full((1, length - 256, cfg.llm.width), 0.1, np.float32)
    index = np.full(ids.shape, -1, np.int32)
    index[0, 128 : 128 + bank.shape[1]] = np.arange(bank.shape[1])
    text = {
        "tokens": ids,
        "visual_index": index,
        "lengths": np.array([length], np.int32),
    }
    program = lambda shapes: prefill.lower(Vica(cfg), length, shapes, text, bank)
    return cfg, program, (text, bank), (length,)


PARTS: dict[str, Callable[[bool], Any]] = {"encode": _encode, "prefill": _prefill}


def _draw(x: jax.ShapeDtypeStruct) -> jax.Array:
    if len(x.shape) == 1:  # norms and biases
        return jnp.ones(x.shape, x.dtype)
    key = jax.random.key(x.shape[-1])
    return _normal(key, x.shape)


_normal = jax.jit(
    lambda key, shape: jax.random.normal(key, shape) * 0.02, static_argnums=1
)


def report(rows: list[dict[str, Any]]) -> str:
    form = "{:<46} {:>8} {:>8} {:>10} {:>9} {:>8}"
    lines = [form.format("", "peak GB", "at most", "weights GB", "temp. GB", "s")]
    for row in rows:
        sizes = (row[key] for key in ("peak_bytes", "bar"))
        cells = ["-" if size is None else f"{size / 1e9:.2f}" for size in sizes]
        cells += [f"{row[key] / 1e9:.2f}" for key in ("weights_bytes",)]
        cells += [f"{row['temporary_bytes'] / 1e9:.2f}", f"{row['seconds']:.0f}"]
        lines.append(form.format(row["said"], *cells))
    return "\n".join(lines)


def define_flags() -> None:
    """Here and not on import: another command may measure with this module."""
    flags.DEFINE_bool("reduced", False, "fewer frames and tokens")
    flags.DEFINE_string("json", "", "file for the numbers")
    flags.DEFINE_enum("part", None, list(BARS), "(a process of the bench) its part")


def main() -> None:
    given = flags.FLAGS
    if given.part:
        numbers: Any = run_part(given.part, given.reduced)
    else:
        numbers = measure(given.reduced)
        print(report(numbers))
    if given.json:
        write_text(given.json, json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
