"""Qwen2 against transformers' ``Qwen2ForCausalLM``: logits, cache, far positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from convert import torch_peer
from convert.qwen2 import qwen2_rows
from vica_jax.models.config import Qwen2Config
from vica_jax.models.qwen2 import Qwen2
from vica_jax.models.rope import rope_frequencies
from vica_jax.models.variants import QWEN2_TINY

pytestmark = pytest.mark.parity


def tiny(**fields) -> Qwen2Config:
    sizes = {"width": 24, "depth": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 6}
    return Qwen2Config(**({**sizes, "mlp_dim": 40, "vocab_size": 61} | fields))


CONFIGS = {
    "tiny": QWEN2_TINY,
    "groups of 1": tiny(num_kv_heads=4),
    "groups of 2": tiny(),
    "groups of 7": tiny(num_heads=14, head_dim=4),
    "one key head": tiny(num_heads=7, num_kv_heads=1, head_dim=8),
    "tied embeddings": tiny(tie_embeddings=True, num_heads=2, num_kv_heads=1),
    "wide heads": tiny(head_dim=32),
    "other constants": tiny(norm_eps=1e-3, rope_theta=1e4, depth=1),
}


class Twin:
    """Our decoder and its peer with the same random weights."""

    def __init__(self, cfg: Qwen2Config, random_tensors, to_params, seed: int = 0):
        rows = qwen2_rows(cfg)
        tensors = random_tensors(rows, seed)
        self.cfg, self.model = cfg, Qwen2(cfg)
        self.params = to_params(rows, tensors)["llm"]
        self.peer = torch_peer.qwen2(cfg, tensors)
        self._forward = jax.jit(self._apply)

    def tokens(self, batch: int, length: int, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return rng.integers(0, self.cfg.vocab_size, (batch, length), np.int64)

    def _apply(self, params, tokens, positions, lengths=None, cache=None):
        bound = self.model.bind({"params": params})
        x, cache = bound(bound.embed(tokens), positions, lengths, cache)
        return bound.logits(x), x, cache

    def ours(self, tokens, positions=None, lengths=None, cache=None):
        """Logits ``[B,T,V]``, hidden states ``[B,T,D]`` and keys and values."""
        if positions is None:
            positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        tokens, positions = (jnp.asarray(x, jnp.int32) for x in (tokens, positions))
        return self._forward(self.params, tokens, positions, lengths, cache)

    def theirs(self, tokens, **inputs) -> np.ndarray:
        out = torch_peer.run(self.peer, tokens, use_cache=False, **inputs)
        return out["logits"]


@pytest.fixture(scope="session")
def twin(random_tensors, to_params):
    return lambda cfg, seed=0: Twin(cfg, random_tensors, to_params, seed)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_agree(name: str, twin, record_error):
    both = twin(CONFIGS[name], seed=len(name))
    tokens = both.tokens(2, 11)
    record_error("Qwen2", name, both.ours(tokens)[0], both.theirs(tokens))


@pytest.mark.parametrize("name", ["groups of 2", "groups of 7", "tied embeddings"])
def test_right_padding_and_cache_agree(name: str, twin, record_error):
    """Rows of 3, 9 and 7 tokens, then four more for each, one at a time."""
    both = twin(CONFIGS[name])
    lengths, more, slots = np.array([3, 9, 7]), 4, 16
    tokens = both.tokens(3, lengths.max() + more)

    mask = np.arange(lengths.max()) < lengths[:, None]
    padded = tokens[:, : lengths.max()]
    logits, _, cache = both.ours(padded)
    peer = both.theirs(padded, attention_mask=mask.astype(np.int64))
    label = f"{name}, right-padded"
    record_error("Qwen2", label, np.asarray(logits)[mask], peer[mask])

    # Each row goes on from its own length; without cache, alone and unpadded, the peer
    # gives the same.
    room = [(0, 0), (0, slots - padded.shape[1]), (0, 0), (0, 0)]
    cache = [(jnp.pad(k, room), jnp.pad(v, room)) for k, v in cache]
    row = np.arange(3)
    steps = []
    for step in range(more):
        at = lengths + step
        new = tokens[row, at][:, None]
        filled = jnp.asarray(at, jnp.int32)
        logits, _, cache = both.ours(new, at[:, None], filled, cache)
        steps.append(logits[:, 0])
    ours = np.stack(steps, 1)
    for b, n in enumerate(lengths):
        alone = both.theirs(tokens[b : b + 1, : n + more])[0, n:]
        record_error("Qwen2", f"{name}, cached decode", ours[b], alone)


@pytest.mark.parametrize(
    ("label", "heads", "kv_heads", "batch", "length"),
    [
        # Past 256 x 256 attention goes in blocks, past 4,096 tokens the MLP too.
        ("300 tokens, groups of 7", 7, 1, 2, 300),
        ("1,100 tokens, groups of 2", 4, 2, 1, 1100),
        ("2 x 2,100 tokens", 2, 1, 2, 2100),
        ("4,100 tokens", 1, 1, 1, 4100),
    ],
)
def test_long_inputs_agree(
    label: str, heads: int, kv_heads: int, batch: int, length: int, twin, record_error
):
    both = twin(tiny(num_heads=heads, num_kv_heads=kv_heads, depth=1))
    tokens = both.tokens(batch, length)
    record_error("Qwen2", label, both.ours(tokens)[0], both.theirs(tokens))


def test_far_positions_agree(twin, record_error):
    """Rotary angles at the positions of a long video, with the 7B's head size."""
    both = twin(tiny(head_dim=128, num_heads=2, num_kv_heads=1))
    tokens = both.tokens(2, 12)
    positions = np.array([[0], [32000]]) + np.arange(12) * 64
    # Without a mask transformers takes a step of 64 for the start of another sequence.
    mask = np.ones_like(tokens)
    theirs = both.theirs(tokens, position_ids=positions, attention_mask=mask)
    ours = both.ours(tokens, positions)[0]
    record_error("Qwen2", "positions up to 32,704", ours, theirs)


@pytest.mark.parametrize("theta", [1e4, 1e6])
@pytest.mark.parametrize("head_dim", [8, 64, 96, 128])
def test_rope_frequencies_agree_to_the_last_bit_or_so(head_dim: int, theta: float):
    cfg = tiny(head_dim=head_dim, rope_theta=theta)
    theirs = torch_peer.rope_frequencies(cfg)
    ours = rope_frequencies(head_dim, theta)
    assert (ours != theirs).sum() <= 1
    np.testing.assert_array_max_ulp(ours, theirs, 1)


@settings(max_examples=8, phases=[Phase.generate])  # to shrink means to compile
@given(
    kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 3, 7]),
    head_dim=st.integers(1, 12),
    width=st.integers(8, 40),
    mlp=st.integers(1, 60),
    vocab=st.integers(2, 90),
    depth=st.integers(1, 3),
    tied=st.booleans(),
    batch=st.integers(1, 3),
    length=st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_random_configs_agree(
    kv_heads,
    group,
    head_dim,
    width,
    mlp,
    vocab,
    depth,
    tied,
    batch,
    length,
    seed,
    twin,
    record_error,
):
    cfg = Qwen2Config(
        width=width,
        depth=depth,
        num_heads=kv_heads * group,
        num_kv_heads=kv_heads,
        head_dim=2 * head_dim,
        mlp_dim=mlp,
        vocab_size=vocab,
        tie_embeddings=tied,
    )
    both = twin(cfg, seed)
    tokens = both.tokens(batch, length, seed)
    record_error("Qwen2", "random", both.ours(tokens)[0], both.theirs(tokens))
