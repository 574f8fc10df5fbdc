"""Model FLOPs of training, and the peaks that they are compared with.

*Model* FLOPs are what the mathematics asks for, whatever the program does: a
multiply-add is two; recomputation (remat), padding of batches and everything that is no
matrix product (norms, softmax, pooling, the optimiser) are not counted. Rules:

* forward: every product once. Causal attention counts the query-key pairs that are
  seen, T (T + 1) / 2, about half of T x T; the towers' attention is full, and Hiera's
  padded windows count as the reference computes them;
* backward of a product with weights: once more for the weights' gradient where they
  train, once more for the input's gradient where something below needs it;
* backward of attention: twice its forward, where a gradient passes;
* nothing below the lowest trainable part; ``lm_head`` at supervised positions only.

Model FLOPs utilisation (MFU; Chowdhery et al. 2022, PaLM, appendix B) is model FLOPs
per second over the devices' peak.
"""

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import numpy as np

from vica_jax.models.config import HieraConfig, Qwen2Config, SiglipConfig, VicaConfig

PARTS = ("siglip", "siglip_projector", "hiera", "hiera_projector", "newline", "llm")

# Dense bfloat16 peaks of one device in TFLOP/s with float32 accumulation, by the words
# of its name; the first row whose words all occur decides. See peak_flops.
_PEAKS = (
    ("h100 pcie", 756.5),
    ("h100 nvl", 835.5),
    ("h100", 989.5),
    ("h800 pcie", 756.5),
    ("h800", 989.5),
    ("h20", 148.0),
    ("h200 nvl", 835.5),
    ("h200", 989.5),
    ("gh200", 989.5),
    ("gb200", 2500.0),
    ("b200", 2250.0),
    ("a100", 312.0),
    ("a800", 312.0),
    ("a40", 149.7),
    ("a30", 165.0),
    ("a10", 125.0),
    ("l40s", 362.05),
    ("l40", 181.05),
    ("l4", 121.0),
)
# A slice of a device, or a cut-down sister of the same name: no peak is known.
_OTHER_DEVICES = {"mig", "laptop", "mobile"}


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 peak of one device in FLOP/s; None where it is not known.

    ``device_kind`` is ``jax.Device.device_kind``, e.g. ``"NVIDIA H100 80GB HBM3"``.

    Source: NVIDIA's data sheets, BFLOAT16 Tensor Core row, halved where it is stated
    "with sparsity": H100 (SXM 1,979, NVL 1,671, first edition PCIe 1,513), H200 (SXM
    1,979, NVL 1,671), H800, H20, GH200 (SXM figures of the same chip), HGX B200 (4,500
    per GPU), GB200 NVL72 (360 PFLOP/s for 72), A100 and A800 (312 dense), A40 (149.7
    dense), A30 (165 dense), A10 (125 dense), L40S (362.05 dense), L40 (181.05 dense),
    L4 (242).
    """
    words = set(re.findall(r"[a-z0-9]+", device_kind.lower()))
    if words & _OTHER_DEVICES:
        return None
    for row, peak in _PEAKS:
        if words.issuperset(row.split()):
            return peak * 1e12
    return None


def sample_flops(
    cfg: VicaConfig,
    *,
    length: int,
    frames: int = 0,
    views: int = 0,
    hiera_frames: int = 0,
    hiera_images: int = 0,
    targets: int = 0,
    trainable: AbstractSet[str],
    adapted: AbstractSet[str] = frozenset(),
    cached_hiera: bool = False,
) -> float:
    """FLOPs of one example in one training step: ``batch_flops`` of a batch of one."""
    return batch_flops(
        cfg,
        lengths=[length],
        frames=frames,
        views=views,
        hiera_frames=hiera_frames,
        hiera_images=hiera_images,
        targets=targets,
        trainable=trainable,
        adapted=adapted,
        cached_hiera=cached_hiera,
    )


def batch_flops(cfg: VicaConfig, **numbers: Any) -> float:
    """FLOPs of one batch in one training step, forward and backward.

    Takes ``part_flops``'s arguments. It is additive: the FLOPs of a batch are the sum
    of its examples', whatever their shapes.
    """
    return float(sum(part_flops(cfg, **numbers).values()))


def part_flops(
    cfg: VicaConfig,
    *,
    lengths: Sequence[int] | np.ndarray,
    frames: int = 0,
    views: int = 0,
    hiera_frames: int = 0,
    hiera_images: int = 0,
    targets: int = 0,
    trainable: AbstractSet[str],
    adapted: AbstractSet[str] = frozenset(),
    cached_hiera: bool = False,
) -> dict[str, float]:
    """FLOPs of one batch in one training step for each part; ``llm`` has ``lm_head``.

    Give true numbers, without padding. ``lengths`` are the positions of each example
    (a sequence or an int array ``[B]``); the rest are sums over the batch: images
    through SigLIP (``frames`` of videos, ``views`` of images), through Hiera
    (``hiera_frames``, ``hiera_images``) and supervised positions.

    ``trainable`` names the parts of ``PARTS`` that learn, each counted as a whole;
    without any it is the forward pass alone. ``adapted`` names frozen parts with
    low-rank adapters (LoRA): gradients pass through them; the adapters' own products,
    a few percent, are not counted. A text-only example counts as though gradients
    passed through the language model, as they do in the program that it shares with
    others. With ``cached_hiera`` features come from disk and Hiera does not run.

    Raises:
      ValueError: an unknown part, or Hiera's where the model has none.
    """
    parts = [p for p in PARTS if cfg.hiera is not None or not p.startswith("hiera")]
    if unknown := [*trainable - set(parts), *adapted - set(parts)]:
        raise ValueError(f"unknown part {unknown[0]!r}; this model has {parts}")
    if cached_hiera and "hiera" in trainable | adapted:
        raise ValueError("cached Hiera features cannot train Hiera")
    learning = trainable | adapted

    def cost(part: str, forward: _Forward, below: bool) -> float:
        return _training(forward, part in trainable, part in learning, below)

    grid, width = cfg.siglip.grid**2, cfg.llm.width
    images = frames + views
    flops = {
        "siglip": cost("siglip", _siglip(cfg.siglip).times(images), False),
        "siglip_projector": cost(
            "siglip_projector",
            _projector(cfg.siglip.width, width).times(images * grid),
            "siglip" in learning,
        ),
    }
    hiera_inputs = hiera_frames + hiera_images
    if cfg.hiera is not None:
        runs = 0 if cached_hiera else hiera_inputs
        tower = _hiera(cfg.hiera, cfg.layout.output_stage).times(runs)
        flops["hiera"] = cost("hiera", tower, False)
        flops["hiera_projector"] = cost(
            "hiera_projector",
            _projector(cfg.hiera_out_width, width).times(
                hiera_inputs * cfg.layout.hiera_grid**2
            ),
            "hiera" in learning,
        )
    elif hiera_inputs:
        raise ValueError("images for Hiera, which this model does not have")
    llm = _llm(cfg.llm, [int(n) for n in lengths], targets)
    # A trainable language model trains its embeddings, the lowest of its weights.
    flops["llm"] = cost("llm", llm, bool(learning))
    return flops


# ------------------------------------------------------------------ forward, per part
class _Forward(NamedTuple):
    """FLOPs of a forward pass by what their backward costs."""

    first: float  # products with weights that read the part's own input
    weights: float  # all other products with weights
    attention: float  # products of two activations

    def times(self, count: int) -> "_Forward":
        return _Forward(*(count * flops for flops in self))


def _training(forward: _Forward, trains: bool, learns: bool, below: bool) -> float:
    """Forward and backward FLOPs of a part.

    ``trains``: its weights have gradients; ``learns``: it has trainable weights of its
    own or adapters'; ``below``: its input needs a gradient.
    """
    inside = learns or below
    return (
        forward.first * (1 + trains + below)
        + forward.weights * (1 + trains + inside)
        + forward.attention * (1 + 2 * inside)
    )


def _siglip(cfg: SiglipConfig) -> _Forward:
    """One image."""
    patches, width = cfg.grid**2, cfg.width
    block = 4 * width * width + 2 * width * cfg.mlp_dim
    return _Forward(
        first=2 * patches * 3 * cfg.patch_size**2 * width,
        weights=2 * patches * block * cfg.depth,
        attention=4 * patches * patches * width * cfg.depth,
    )


def _hiera(cfg: HieraConfig, num_stages: int) -> _Forward:
    """One image, up to the end of stage ``num_stages``, padded windows included."""
    side, width = cfg.image_size // cfg.patch_stride, cfg.width
    first = 2 * side * side * 7 * 7 * 3 * width
    weights = attention = 0
    for block in range(sum(cfg.depths[:num_stages])):
        out = cfg.stage_widths[cfg.stage_of(block)]
        pool = cfg.pool if block in cfg.pool_blocks else 1
        window = cfg.window_of(block) or side
        keys = (side + -side % window) ** 2  # over all windows
        queries = keys // pool**2
        if out != width:
            weights += 2 * side * side * width * out  # the shortcut
        weights += 2 * keys * width * 3 * out + 2 * queries * out * out
        attention += 4 * queries * window**2 * out
        side, width = side // pool, out
        weights += 2 * side * side * 2 * width * int(width * cfg.mlp_ratio)
    return _Forward(first, weights, attention)


def _projector(width: int, out: int) -> _Forward:
    """One token."""
    return _Forward(first=2 * width * out, weights=2 * out * out, attention=0)


def _llm(cfg: Qwen2Config, lengths: Sequence[int], targets: int) -> _Forward:
    """Sequences of ``lengths`` positions and the logits of ``targets`` of them.

    Its input is a gather, not a product, so nothing is ``first``.
    """
    heads = cfg.num_heads * cfg.head_dim
    kv_heads = cfg.num_kv_heads * cfg.head_dim
    block = cfg.width * (2 * heads + 2 * kv_heads + 3 * cfg.mlp_dim)
    pairs = sum(n * (n + 1) // 2 for n in lengths)
    return _Forward(
        first=0,
        weights=2 * sum(lengths) * block * cfg.depth
        + 2 * targets * cfg.width * cfg.vocab_size,
        attention=4 * pairs * heads * cfg.depth,
    )
