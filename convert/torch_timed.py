"""PyTorch's side of the bench: the peers of ``torch_peer``, run as their users do.

Attention is torch's ``scaled_dot_product_attention`` where ``torch_peer`` takes the
plain one. Everything runs in float32 on the CPU, on as many threads as torch chooses,
and returns numpy arrays. The only other module that imports torch, and only inside
functions.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from convert import torch_peer
from convert.torch_peer import Tensors
from vica_jax.models.config import HieraConfig, Qwen2Config, SiglipConfig

Run = Callable[[], Any]
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def siglip_layer(cfg: SiglipConfig, tensors: Tensors, x: np.ndarray) -> Run:
    """A layer of transformers' SigLIP on ``x [B,P,D]``."""
    peer = _with_sdpa(torch_peer.siglip_layer(cfg, tensors))
    return _inference(lambda x: peer(x, None), x)


def hiera_block(cfg: HieraConfig, index: int, tensors: Tensors, x: np.ndarray) -> Run:
    """A block of transformers' Hiera on ``x [B,R,R,C]``."""
    peer = _with_sdpa(torch_peer.hiera_block(cfg, index, tensors))
    return _inference(peer, x)


def qwen2_layer(cfg: Qwen2Config, tensors: Tensors, x: np.ndarray) -> Run:
    """A decoder layer on ``x [B,T,D]``, causal."""
    peer = _with_sdpa(torch_peer.qwen2_layer(cfg, tensors))
    return _inference(
        lambda x: peer(inputs_embeds=x, use_cache=False).last_hidden_state, x
    )


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> Run:
    """Causal attention of q ``[B,T,N,H]`` and k, v ``[B,T,K,H]`` -> ``[B,T,N,H]``.

    The layout of heads is each side's own: the transposed views cost nothing here.
    """
    import torch

    groups = q.shape[2] // k.shape[2]

    def run(q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        # As transformers does: the CPU's kernel takes as many kv heads as heads.
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return out.transpose(1, 2)

    return _inference(run, q, k, v)


def generate(
    cfg: Qwen2Config, tensors: Tensors, tokens: np.ndarray, new_tokens: int, eos_id: int
) -> Run:
    """``generate``, greedy, ``new_tokens`` of them for each row of ``tokens [B,T]``."""
    peer = _with_sdpa(torch_peer.qwen2(cfg, tensors))

    def run(ids):
        out = peer.generate(
            ids,
            attention_mask=ids.new_ones(ids.shape),
            do_sample=False,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            eos_token_id=eos_id,
            pad_token_id=eos_id,
        )
        return out[:, ids.shape[1] :]

    return _inference(run, tokens.astype(np.int64))


def generate_embedded(
    cfg: Qwen2Config,
    tensors: Tensors,
    prompts: list[np.ndarray],
    new_tokens: int,
    eos_id: int,
) -> Run:
    """``generate`` from embeddings ``[1,T,D]``, one prompt after the other."""
    import torch

    peer = _with_sdpa(torch_peer.qwen2(cfg, tensors))
    inputs = [torch.from_numpy(x) for x in prompts]

    def run():
        with torch.inference_mode():
            return [
                peer.generate(
                    inputs_embeds=x,
                    attention_mask=torch.ones(x.shape[:2], dtype=torch.int64),
                    do_sample=False,
                    min_new_tokens=new_tokens,
                    max_new_tokens=new_tokens,
                    eos_token_id=eos_id,
                    pad_token_id=eos_id,
                ).numpy()
                for x in inputs
            ]

    return run


def train_step(
    cfg: Qwen2Config,
    tensors: Tensors,
    tokens: np.ndarray,
    *,
    learning_rate: float,
    clip_norm: float,
) -> Run:
    """A step of AdamW on next-token loss over ``tokens [B,T]``; returns the loss."""
    import torch

    peer = _with_sdpa(torch_peer.qwen2(cfg, tensors)).train()
    parameters = list(peer.parameters())
    for parameter in parameters:  # given weights share memory with numpy's arrays
        parameter.data = parameter.data.clone()
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    ids = torch.from_numpy(tokens.astype(np.int64))

    def run():
        optimizer.zero_grad(set_to_none=True)
        loss = peer(ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()
        return float(loss.detach())

    return run


def siglip_processor(frames: np.ndarray, size: int) -> Run:
    """The reference's SigLIP processor: ``[n,h,w,3]`` -> float32 ``[n,3,size,size]``.

    transformers' image transforms, frame by frame, as the reference calls them.
    """
    import torch
    from transformers.image_transforms import (
        normalize,
        rescale,
        resize,
        to_channel_dimension_format,
    )
    from transformers.image_utils import PILImageResampling

    def one(frame):
        x: Any = resize(frame, (size, size), PILImageResampling.BICUBIC)
        x = rescale(x, 1 / 255)
        x = normalize(x, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        return to_channel_dimension_format(x, "channels_first")

    return lambda: torch.from_numpy(np.stack([one(x) for x in frames]))


def hiera_processor(frames: np.ndarray, size: int) -> Run:
    """The reference's transform for Hiera: ``[n,h,w,3]`` -> ``[n,3,size,size]``."""
    import torch

    mean, std = (torch.tensor(x).view(3, 1, 1) for x in IMAGENET)

    def one(frame):
        x = torch.from_numpy(frame).permute(2, 0, 1).float() / 255
        resize = torch.nn.functional.interpolate
        x = resize(x[None], (size, size), mode="bilinear", align_corners=False)[0]
        return (x - mean) / std

    def run():
        with torch.inference_mode():
            return torch.stack([one(x) for x in frames])

    return run


def _inference(function: Callable[..., Any], *arrays: np.ndarray) -> Run:
    import torch

    inputs = [torch.from_numpy(x) for x in arrays]

    def run():
        with torch.inference_mode():
            return function(*inputs).numpy()

    return run


def _with_sdpa(module: Any) -> Any:
    """The module with transformers' ``sdpa`` in place of its plain attention."""
    for part in module.modules():
        config = getattr(part, "config", None)
        if config is not None:
            config._attn_implementation = "sdpa"
    return module
