"""Hiera against transformers' ``Sam2HieraDetModel``: the map of every stage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from convert import torch_peer
from convert.hiera import TRANSFORMERS, hiera_rows
from vica_jax.models.config import HieraConfig
from vica_jax.models.hiera import Hiera
from vica_jax.models.variants import HIERA_TINY

pytestmark = pytest.mark.parity


def tiny(**fields) -> HieraConfig:
    sizes = {
        "image_size": 64,  # maps of 16, 8, 4 and 2
        "width": 8,
        "num_heads": 1,
        "depths": (1, 1, 2, 1),
        "global_blocks": (),
        "windows": (4, 4, 2, 2),
        "pos_embed_size": (5, 5),
    }
    return HieraConfig(**(sizes | fields))


CONFIGS = {
    "tiny": HIERA_TINY,
    "B+ in small": tiny(
        image_size=128,
        num_heads=2,
        depths=(2, 3, 5, 3),
        global_blocks=(6, 8, 9),
        windows=(8, 4, 14, 7),
        pos_embed_size=(14, 14),
    ),
    "L in small": tiny(
        image_size=128,
        width=12,
        num_heads=2,
        depths=(2, 2, 6, 2),
        global_blocks=(5, 7),
        windows=(8, 4, 16, 8),
        pos_embed_size=(7, 7),
    ),
    # The padding takes part in query pooling, in stage 2 and in stage 3.
    "windows that do not divide": tiny(image_size=96, windows=(6, 10, 4, 5)),
    "windows past the map": tiny(windows=(16, 12, 10, 9)),
    "no pooling": tiny(image_size=32, num_pools=0, windows=(4, 3, 5, 8)),
    "one pooling": tiny(num_pools=1, windows=(2, 3, 5, 6), global_blocks=(0, 3)),
    "two poolings": tiny(num_pools=2, global_blocks=(3, 4)),
    "pooling by 4": tiny(num_pools=1, pool=4, windows=(8, 3, 2, 2)),
    "global first": tiny(
        image_size=128, depths=(2, 1, 1, 2), global_blocks=(0, 1, 5)
    ),  # 1,024 queries, in blocks
    "one stage": tiny(depths=(3,), windows=(4,), num_pools=0, global_blocks=(1,)),
    "five stages": tiny(depths=(1,) * 5, windows=(4, 2, 2, 2, 3), width=4),
    "other ratios": tiny(
        width=8, width_mul=1.5, head_mul=1.0, mlp_ratio=2.5, norm_eps=1e-3
    ),
    "same width": tiny(width_mul=1.0, head_mul=2.0, num_pools=0, windows=(4, 4, 4, 4)),
    "oblong position table": tiny(pos_embed_size=(3, 20)),
}


def stages(cfg: HieraConfig, params: dict, pixels: np.ndarray, num_stages: int):
    """The output and all maps of our model, for pixels ``[B,3,S,S]``."""
    model = Hiera(cfg, num_stages)
    run = lambda p, x: model.apply({"params": p}, x, mutable=["intermediates"])
    out, state = jax.jit(run)(params, jnp.asarray(pixels.transpose(0, 2, 3, 1)))
    maps = state["intermediates"]["blocks"]
    return out, [maps[f"stage{stage + 1}"][0] for stage in range(num_stages)]


@pytest.fixture(scope="session")
def twins(random_tensors, to_params):
    """Parameters and pixels of ours, and the peer's map of every stage."""

    def make(cfg: HieraConfig, seed: int, batch: int = 1):
        rows = hiera_rows(cfg, "", TRANSFORMERS)
        tensors = random_tensors(rows, seed)
        size = (batch, 3, cfg.image_size, cfg.image_size)
        pixels = np.random.default_rng(seed).standard_normal(size, np.float32)
        theirs = torch_peer.run(torch_peer.hiera(cfg, tensors), pixels)
        params = to_params(rows, tensors)["hiera"]
        return params, pixels, theirs["intermediate_hidden_states"]

    return make


@pytest.fixture(scope="session")
def check(twins, record_error):
    def run(label: str, cfg: HieraConfig, seed: int, batch: int = 2):
        params, pixels, theirs = twins(cfg, seed, batch)
        out, maps = stages(cfg, params, pixels, len(cfg.depths))
        for a, b in zip(maps, theirs, strict=True):
            record_error("Hiera", label, a, b)
        np.testing.assert_array_equal(out, maps[-1])

    return run


@pytest.mark.parametrize("name", CONFIGS)
def test_stages_agree(name: str, check):
    check(name, CONFIGS[name], seed=len(name))


@pytest.mark.parametrize("num_stages", [1, 2, 3])
def test_earlier_output_stages_agree(num_stages: int, twins, record_error):
    params, pixels, theirs = twins(HIERA_TINY, seed=num_stages)
    out, _ = stages(HIERA_TINY, params, pixels, num_stages)
    label = f"tiny, output stage {num_stages}"
    record_error("Hiera", label, out, theirs[num_stages - 1])


@st.composite
def sizes(draw) -> dict:
    """Fields of a config; the config itself is made in the test, because run-time type
    checks draw random numbers, which hypothesis forbids here."""
    stages = draw(st.integers(1, 4))
    pools = draw(st.integers(0, stages - 1))
    depths = draw(st.lists(st.integers(1, 2), min_size=stages, max_size=stages))
    grid = draw(st.integers(1, 3)) * 2**pools
    step = [2 if stage < pools else 1 for stage in range(stages)]
    first = [n for n in range(1, grid + 1) if grid % n == 0 and n % step[0] == 0]
    windows = [draw(st.sampled_from(first))]
    windows += [n * draw(st.integers(1, 4)) for n in step[1:]]
    pooling = {sum(depths[:stage]) for stage in range(1, pools + 1)}
    free = [block for block in range(sum(depths)) if block not in pooling]
    heads = draw(st.integers(1, 3))
    return {
        "image_size": 4 * grid,
        "width": heads * draw(st.integers(2, 6)) * 4,  # norms of fewer are unstable
        "num_heads": heads,
        "depths": tuple(depths),
        "windows": tuple(windows),
        "num_pools": pools,
        "global_blocks": tuple(draw(st.sets(st.sampled_from(free)))),
        "pos_embed_size": draw(st.tuples(st.integers(1, 9), st.integers(1, 9))),
        "mlp_ratio": draw(st.sampled_from([1.0, 2.5, 4.0])),
    }


@settings(max_examples=8, phases=[Phase.generate])  # to shrink means to compile
@given(fields=sizes(), batch=st.integers(1, 2), seed=st.integers(0, 99))
def test_random_configs_agree(fields: dict, batch: int, seed: int, check):
    check("random", tiny(**fields), seed, batch)
