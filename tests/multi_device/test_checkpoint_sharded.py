"""Restoring into shardings over 8 devices: every device holds its share only."""

from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vica_jax.checkpoint import CheckpointWriter, restore

ROWS, COLUMNS = 48, 40


@pytest.fixture(scope="module")
def mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)


def values(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((ROWS, COLUMNS)).astype(ml_dtypes.bfloat16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One leaf in a single block, one in blocks of 7 rows, which no sharding meets."""
    target = tmp_path_factory.mktemp("sharded") / "model"
    with CheckpointWriter(target, part_bytes=7 * COLUMNS * 2) as new:
        new.write("blocks", values(0))
        new.write("llm/one", values(1)[:4])
        new.write("scale", np.array(3, np.float32))
        new.finish(family="component", config=None)
    return target


@pytest.mark.parametrize("dtype", [None, jnp.float32])
@pytest.mark.parametrize(
    ("spec", "share"),
    [
        (PartitionSpec(), 1),
        (PartitionSpec("fsdp"), 4),
        (PartitionSpec(None, "tensor"), 2),
        (PartitionSpec("tensor", "fsdp"), 8),
        (PartitionSpec(None, ("fsdp", "tensor")), 8),
    ],
)
def test_each_device_holds_its_share(
    folder: Path,
    mesh: jax.sharding.Mesh,
    spec: PartitionSpec,
    share: int,
    dtype: jax.typing.DTypeLike | None,
):
    whole = NamedSharding(mesh, PartitionSpec())
    shardings = {
        "blocks": NamedSharding(mesh, spec),
        "llm": {"one": NamedSharding(mesh, spec)},
        "scale": whole,
    }
    got = restore(folder, shardings=shardings, dtype=dtype)
    for leaf, want in ((got["blocks"], values(0)), (got["llm"]["one"], values(1)[:4])):
        assert leaf.sharding == NamedSharding(mesh, spec)
        assert leaf.dtype == (dtype or want.dtype)
        np.testing.assert_array_equal(np.asarray(leaf), want.astype(leaf.dtype))
        assert len(leaf.addressable_shards) == 8
        for shard in leaf.addressable_shards:
            assert shard.data.nbytes == leaf.nbytes // share
    assert got["scale"].sharding == whole and got["scale"] == 3


def test_shardings_by_path_and_shape(folder: Path, mesh: jax.sharding.Mesh):
    seen = {}

    def sharding(path: str, shape: tuple[int, ...]) -> NamedSharding:
        seen[path] = shape
        return NamedSharding(mesh, PartitionSpec(*["fsdp"][: len(shape)]))

    got = restore(folder, shardings=sharding)
    assert seen == {"blocks": (ROWS, COLUMNS), "llm/one": (4, COLUMNS), "scale": ()}
    assert got["blocks"].addressable_shards[0].data.shape == (ROWS // 4, COLUMNS)
