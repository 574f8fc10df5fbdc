"""Loading holds one copy of the weights, and of one tensor what it was read from."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from convert.load import to_hf
from convert.rules import flatten
from vica_jax.checkpoint import CheckpointWriter
from vica_jax.models.variants import VARIANTS
from vica_jax.models.vica import abstract_vica

ROOT = Path(__file__).parents[2]
TOKENIZER = ROOT / "tests" / "goldens" / "tiny-vica2" / "checkpoint"
TINY = VARIANTS["tiny"]
# 109 million parameters, none of them in a large leaf: 17 MB in float32.
CFG = replace(
    TINY, llm=replace(TINY.llm, width=1024, head_dim=64, mlp_dim=4096, depth=8)
)
SCRIPT = """
import sys
import jax
from convert.load import load_assistant
from vica_jax.data.tokenizer import load_tokenizer

def status(name):
    return int(open("/proc/self/status").read().split(name + ":")[1].split()[0]) * 1024

jax.numpy.zeros(3).block_until_ready()
load_tokenizer(sys.argv[3])  # imports transformers
try:
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins here
except OSError:
    pass
before = status("VmRSS")
assistant = load_assistant(sys.argv[1], dtype=sys.argv[2])
leaves = jax.tree.leaves(assistant.params)
assert all(leaf.dtype == sys.argv[2] for leaf in leaves)
print(status("VmHWM") - before, sum(leaf.nbytes for leaf in leaves))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """The same random bfloat16 weights as ``native`` and ``hf``."""
    folder, rng = tmp_path_factory.mktemp("weights"), np.random.default_rng(0)
    with CheckpointWriter(folder / "native", part_bytes=8 << 20) as new:
        for name, leaf in flatten(abstract_vica(CFG)[0]).items():
            values = rng.standard_normal(leaf.shape, dtype=np.float32)
            new.write(name, values.astype(ml_dtypes.bfloat16))
        new.copy_tokenizer(TOKENIZER)
        new.finish(family="vica_qwen", config=CFG)
    to_hf(folder / "native", folder / "hf")
    return folder


@pytest.mark.parametrize("form", ["native", "hf"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_never_two_copies(folders, form, dtype):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folders / form), dtype, str(TOKENIZER)],
        cwd=ROOT,
        # glibc then gives back at once what is freed: what is held counts.
        env=os.environ | {"JAX_PLATFORMS": "cpu", "MALLOC_MMAP_THRESHOLD_": "1000000"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    peak, weights = map(int, done.stdout.split())
    assert weights > (400e6 if dtype == "float32" else 200e6)
    assert weights < peak < 1.4 * weights, peak / weights
