"""Qwen2 in PyTorch at full size: the seconds of its prefill and decode, for the bench.

transformers' class in bfloat16 with its own attention kernels (``sdpa``), weights drawn
on the device. torch is imported inside functions only.
"""

import statistics
import time
from typing import Any

from convert import torch_peer
from vica_jax.models.config import Qwen2Config


def device_name() -> str | None:
    """The GPU that torch sees; None without torch or without a GPU."""
    try:
        import torch
    except ImportError:
        return None
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def versions() -> dict[str, str]:
    return torch_peer.versions()


def make(cfg: Qwen2Config, device: str, dtype: str) -> Any:
    """``Qwen2ForCausalLM`` with normal weights of deviation 0.02, norms of 1."""
    import torch
    from transformers import Qwen2ForCausalLM
    from transformers.initialization import no_init_weights

    config = torch_peer.config(cfg)
    config._attn_implementation = "sdpa"
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with no_init_weights(), torch.device(device):
            model = Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0) if "norm" in name else weight.normal_(0.0, 0.02)
    return model.eval()


def measure(
    model: Any, *, rows: int, length: int, new_tokens: int, repeats: int
) -> dict[str, Any]:
    """Seconds of ``generate`` from embeddings ``[rows,length,D]``.

    ``prefill`` lists the seconds of answers of one token, ``decode_step`` those of each
    of ``new_tokens`` more: the difference of an answer that is so much longer.
    """
    import torch

    device, dtype = model.device, model.dtype
    embeds = torch.randn(rows, length, model.config.hidden_size, device=device)
    embeds = (embeds * 0.02).to(dtype)
    cuda = device.type == "cuda"

    def generate(tokens: int) -> float:
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.inference_mode():
            ids = model.generate(
                inputs_embeds=embeds,
                attention_mask=torch.ones(rows, length, device=device).long(),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
            )
        if cuda:
            torch.cuda.synchronize()
        assert ids.shape == (rows, tokens), ids.shape
        return time.perf_counter() - start

    first = generate(2)
    short, long = [], []
    for _ in range(repeats):
        short.append(generate(1))
        long.append(generate(1 + new_tokens))
    steps = [(more - less) / new_tokens for more, less in zip(long, short, strict=True)]
    peak = torch.cuda.max_memory_allocated() if cuda else None
    return {
        "prefill": short,
        "decode_step": steps,
        "prefill_median": statistics.median(short),
        "decode_median": statistics.median(steps),
        "first": first,
        "peak_bytes": peak,
        "attention": model.config._attn_implementation,
    }
