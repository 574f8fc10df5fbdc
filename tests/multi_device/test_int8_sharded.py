"""An int8 checkpoint on eight devices: each holds its share, and the answer stands."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from convert.load import to_native
from vica_jax.decode.assistant import Assistant
from vica_jax.sharding import make_mesh

CHECKPOINT = Path(__file__).parents[1] / "goldens" / "tiny-vica2" / "checkpoint"
SETTINGS = {"max_new_tokens": 8, "num_frames": 8, "source_fps": 2.0}
ASKED = ["How many chairs are there?", "Why?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("int8") / "native"
    to_native(CHECKPOINT, target, quantize="int8")
    return target


def test_an_int8_checkpoint_on_a_mesh(folder):
    """Also the scales are split, and the prefix's beside its values."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 40, 60, 3), np.uint8)
    mesh = make_mesh({"fsdp": 2, "tensor": 2})
    found, prefixes = [], []
    for place in (None, mesh):
        assistant = Assistant.load(folder, mesh=place, dtype="float32", kv_dtype="int8")
        session = assistant.open(pixels, **SETTINGS)
        asked = session.ask(ASKED, exact=[("A", "B")] * 2)
        found.append([answer.exact.log_probs for answer in asked])
        prefixes.append(session.prefix.layers[0][0])
    for one, four in zip(*found, strict=True):
        assert four == pytest.approx(one, abs=1e-3)
    layer = assistant.params["llm"]["layers"]["0"]
    up, q = layer["mlp"]["up_proj"], layer["attn"]["q_proj"]
    assert up["kernel"].dtype == jnp.int8
    assert up["kernel"].sharding.spec == PartitionSpec(("fsdp",), ("tensor",))
    assert up["kernel_scale"].sharding.spec == PartitionSpec(("tensor",))
    assert q["kernel_scale"].sharding.spec == PartitionSpec(("tensor",), None)
    keys = prefixes[1]
    for leaf in jax.tree.leaves(keys):
        shares = {shard.data.shape for shard in leaf.addressable_shards}
        assert shares == {(leaf.shape[0] // 2, *leaf.shape[1:])}
