"""SigLIP against transformers' ``SiglipVisionModel``, from pixels to every layer."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from convert import torch_peer
from convert.siglip import siglip_rows
from vica_jax.models.config import SiglipConfig
from vica_jax.models.siglip import Siglip
from vica_jax.models.variants import SIGLIP_TINY

pytestmark = pytest.mark.parity


def tiny(**fields) -> SiglipConfig:
    sizes = {"image_size": 32, "patch_size": 8, "width": 32, "num_heads": 2}
    return SiglipConfig(**({**sizes, "depth": 2, "mlp_dim": 48} | fields))


CONFIGS = {
    "tiny": SIGLIP_TINY,  # 72 = 5 * 14 + 2
    "whole patches": tiny(),
    "a rest of 7 pixels": tiny(image_size=39),
    "one patch": tiny(image_size=9),
    "one head": tiny(num_heads=1, depth=1),
    "heads of one": tiny(num_heads=32, norm_eps=1e-3),
    "other pixel statistics": tiny(pixel_mean=0.4, pixel_std=0.25),
    "blockwise attention": tiny(image_size=266, depth=1),  # 33 * 33 = 1,089 tokens
}


@pytest.fixture(scope="session")
def check(random_tensors, to_params, record_error):
    """Our hidden states, embeddings first, beside the peer's."""

    def run(label: str, cfg: SiglipConfig, seed: int = 0, batch: int = 2):
        # The peer has the layer that the reference drops, and its hidden states end
        # before the post norm: ours are all but its last.
        whole = replace(cfg, depth=cfg.depth + 1)
        tensors = random_tensors(siglip_rows(whole, ""), seed)
        params = to_params(siglip_rows(cfg, ""), tensors)["siglip"]
        size = (batch, cfg.image_size, cfg.image_size, 3)
        pixels = np.random.default_rng(seed).integers(0, 256, size, np.uint8)

        model = Siglip(cfg)
        apply = jax.jit(
            lambda p, x: model.apply({"params": p}, x, mutable=["intermediates"])
        )
        out, state = apply(params, jnp.asarray(pixels))
        state = state["intermediates"]
        ours = [state["embeddings"][0]]
        ours += [state["layers"][str(i)]["output"][0] for i in range(cfg.depth)]

        normal = (pixels / np.float32(255) - cfg.pixel_mean) / cfg.pixel_std
        normal = np.ascontiguousarray(normal.transpose(0, 3, 1, 2), np.float32)
        peer = torch_peer.siglip(whole, tensors)
        theirs = torch_peer.run(peer, normal, output_hidden_states=True)
        theirs = theirs["hidden_states"]
        assert len(theirs) == cfg.depth + 2
        for a, b in zip(ours, theirs[:-1], strict=True):
            record_error("SigLIP", label, a, b)
        np.testing.assert_array_equal(out, ours[-1])

    return run


@pytest.mark.parametrize("name", CONFIGS)
def test_layers_agree(name: str, check):
    check(name, CONFIGS[name])


@settings(max_examples=6, phases=[Phase.generate])  # to shrink means to compile
@given(
    grid=st.integers(1, 6),
    patch=st.integers(1, 9),
    rest=st.integers(0, 8),
    heads=st.integers(1, 4),
    head_dim=st.integers(2, 20),
    mlp=st.integers(1, 80),
    depth=st.integers(1, 3),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_random_configs_agree(
    grid, patch, rest, heads, head_dim, mlp, depth, batch, seed, check
):
    cfg = SiglipConfig(
        image_size=grid * patch + rest % patch,
        patch_size=patch,
        width=heads * head_dim * 4,
        depth=depth,
        num_heads=heads,
        mlp_dim=mlp,
    )
    check("random", cfg, seed, batch)
