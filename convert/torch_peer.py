"""Transformers' own torch classes with given weights: the other side of parity.

Imports torch (extra ``[parity]``) only inside functions, as ``torch_timed`` does. All
weights, inputs and results are numpy arrays; everything runs in float32 with eager
attention on the CPU. A *peer* is the torch module that answers one of ours; its tensors
carry the names of its ``state_dict``, in Hugging Face's layout:

    whole models    siglip_rows(cfg, ""), hiera_rows(cfg, "", TRANSFORMERS), qwen2_rows
    single layers   the same names, counted from the layer

SigLIP's vision model, SAM 2's Hiera backbone and Qwen2 are classes of transformers;
projectors are the ``Sequential`` that the reference builds.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from convert.rules import Row
from vica_jax.models.config import HieraConfig, Qwen2Config, SiglipConfig

if TYPE_CHECKING:
    import torch

Tensors = Mapping[str, np.ndarray]


def versions() -> dict[str, str]:
    """Versions of the packages that stand on this side of a comparison."""
    import torch
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__}


def rename(
    read: Callable[[str], np.ndarray], rows: Iterable[Row], peer_rows: Iterable[Row]
) -> dict[str, np.ndarray]:
    """A checkpoint's tensors under a peer's names.

    ``rows`` name the checkpoint's tensors, ``peer_rows`` those of the peer; they meet
    in the native path. ``read`` gives the tensor of a name. What only one side has is
    left out.
    """
    names = {row.native: row.hf for row in rows}
    return {row.hf: read(names[row.native]) for row in peer_rows if row.native in names}


# ---------------------------------------------------------------- whole models
def siglip(cfg: SiglipConfig, tensors: Tensors) -> "torch.nn.Module":
    """``SiglipVisionModel`` with the kept layers, without its pooling head."""
    from transformers import SiglipVisionModel

    return _load(lambda: SiglipVisionModel(_siglip_config(cfg)), tensors)


def hiera(cfg: HieraConfig, tensors: Tensors) -> "torch.nn.Module":
    """``Sam2HieraDetModel``, whose intermediate states are the stages' maps."""
    from transformers import Sam2HieraDetModel

    return _load(lambda: Sam2HieraDetModel(_hiera_config(cfg)), tensors)


def qwen2(cfg: Qwen2Config, tensors: Tensors) -> "torch.nn.Module":
    """``Qwen2ForCausalLM``; ``lm_head.weight`` is not given where it is tied."""
    from transformers import Qwen2ForCausalLM

    if cfg.tie_embeddings:
        tensors = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
    return _load(lambda: Qwen2ForCausalLM(_qwen2_config(cfg)), tensors)


# --------------------------------------------------------------- single layers
def siglip_embeddings(cfg: SiglipConfig, tensors: Tensors) -> "torch.nn.Module":
    """Pixels ``[B,3,S,S]`` -> ``[B,P,D]`` with positions."""
    from transformers.models.siglip.modeling_siglip import SiglipVisionEmbeddings

    return _load(lambda: SiglipVisionEmbeddings(_siglip_config(cfg)), tensors)


def siglip_layer(cfg: SiglipConfig, tensors: Tensors) -> "torch.nn.Module":
    """``(hidden [B,P,D], None)`` -> ``[B,P,D]``."""
    from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

    return _load(lambda: SiglipEncoderLayer(_siglip_config(cfg)), tensors)


def hiera_stem(cfg: HieraConfig, tensors: Tensors) -> "torch.nn.Module":
    """The backbone without blocks: pixels ``[B,3,S,S]`` -> ``[B,R,R,C]``."""
    from transformers import Sam2HieraDetModel

    config = _hiera_config(cfg)
    config.blocks_per_stage = []
    return _load(lambda: Sam2HieraDetModel(config), tensors)


def hiera_block(cfg: HieraConfig, index: int, tensors: Tensors) -> "torch.nn.Module":
    """Block ``index`` of all: ``[B,R,R,C]`` -> ``[B,R',R',C']``."""
    from transformers.models.sam2.modeling_sam2 import Sam2MultiScaleBlock

    stage = cfg.stage_of(index)
    inner = index - cfg.stage_starts[stage]
    config = _hiera_config(cfg)
    return _load(lambda: Sam2MultiScaleBlock(config, stage, inner, index), tensors)


def qwen2_layer(cfg: Qwen2Config, tensors: Tensors) -> "torch.nn.Module":
    """A decoder of one layer with neither embedding nor final norm.

    It is called with ``inputs_embeds [B,T,D]``: transformers' model makes mask and
    rotary angles, its ``last_hidden_state [B,T,D]`` is the layer's output.
    """
    import torch
    from transformers import Qwen2Model

    def make():
        model = Qwen2Model(_qwen2_config(cfg, depth=1, vocab_size=1))
        for name in ("embed_tokens", "norm"):
            model.register_module(name, torch.nn.Identity())
        return model

    return _load(make, {f"layers.0.{name}": x for name, x in tensors.items()})


def qwen2_head(cfg: Qwen2Config, tensors: Tensors) -> "torch.nn.Module":
    """Final norm ``0.weight`` and output matrix ``1.weight``: ``[..,D] -> [..,V]``."""
    import torch
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

    def make():
        head = torch.nn.Linear(cfg.width, cfg.vocab_size, bias=False)
        return torch.nn.Sequential(Qwen2RMSNorm(cfg.width, cfg.norm_eps), head)

    return _load(make, tensors)


def embedding(tensors: Tensors) -> "torch.nn.Module":
    """A table ``weight [V,D]`` looked up by ids."""
    import torch

    size, width = tensors["weight"].shape
    return _load(lambda: torch.nn.Embedding(size, width), tensors)


def projector(tensors: Tensors) -> "torch.nn.Module":
    """The reference's ``mlp2x_gelu``: ``{0,2}.{weight,bias}``."""
    from torch import nn

    width, into = tensors["0.weight"].shape
    make = lambda: nn.Sequential(
        nn.Linear(into, width), nn.GELU(), nn.Linear(width, width)
    )
    return _load(make, tensors)


# --------------------------------------------------------------------- running
def run(peer: "torch.nn.Module", *args: Any, **kwargs: Any) -> Any:
    """Call a peer with numpy arrays and without gradients.

    Returns what it returns, every tensor a numpy array; the named outputs of a
    transformers model become a dict.
    """
    import torch

    with torch.inference_mode():
        args = tuple(_to_torch(x) for x in args)
        return _to_numpy(peer(*args, **{k: _to_torch(v) for k, v in kwargs.items()}))


def interpolate(x: np.ndarray, size: tuple[int, int], **options: Any) -> np.ndarray:
    """``torch.nn.functional.interpolate`` of ``[B,C,H,W]``, corners not aligned."""
    import torch

    resize = torch.nn.functional.interpolate
    return resize(_to_torch(x), size, align_corners=False, **options).numpy()


def rope_frequencies(cfg: Qwen2Config) -> np.ndarray:
    """Inverse frequencies of transformers' rotary embedding, float32 ``[H/2]``."""
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

    return Qwen2RotaryEmbedding(_qwen2_config(cfg)).inv_freq.numpy()


def _load(make: Callable[[], Any], tensors: Tensors) -> Any:
    """A module that holds exactly ``tensors``, uninitialised before."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        module = make()
    state = {name: _to_torch(_float32(x)) for name, x in tensors.items()}
    # Assigned, not copied: a float32 array and the parameter share their memory.
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval()


def _float32(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, np.float32)


def _to_torch(x: Any) -> Any:
    import torch

    if not isinstance(x, np.ndarray):
        return x
    # torch warns of arrays it could not write to, such as views of JAX's.
    return torch.from_numpy(x if x.flags.writeable else x.copy())


def _to_numpy(x: Any) -> Any:
    import torch

    if isinstance(x, torch.Tensor):
        return x.numpy()
    if isinstance(x, Mapping):
        return {name: _to_numpy(value) for name, value in x.items()}
    if isinstance(x, list | tuple):
        return [_to_numpy(value) for value in x]
    return x


# --------------------------------------------------------------------- configs
def config(cfg: SiglipConfig | HieraConfig | Qwen2Config) -> Any:
    """The transformers config of a tower's sizes."""
    match cfg:
        case SiglipConfig():
            return _siglip_config(cfg)
        case HieraConfig():
            return _hiera_config(cfg)
        case Qwen2Config():
            return _qwen2_config(cfg)


def _siglip_config(cfg: SiglipConfig) -> Any:
    from transformers import SiglipVisionConfig

    return _eager(
        SiglipVisionConfig,
        hidden_size=cfg.width,
        intermediate_size=cfg.mlp_dim,
        num_hidden_layers=cfg.depth,
        num_attention_heads=cfg.num_heads,
        image_size=cfg.image_size,
        patch_size=cfg.patch_size,
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=cfg.norm_eps,
        vision_use_head=False,
    )


def _hiera_config(cfg: HieraConfig) -> Any:
    from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig

    return _eager(
        Sam2HieraDetConfig,
        hidden_size=cfg.width,
        num_attention_heads=cfg.num_heads,
        image_size=[cfg.image_size] * 2,
        patch_stride=[cfg.patch_stride] * 2,
        query_stride=[cfg.pool] * 2,
        window_positional_embedding_background_size=list(cfg.pos_embed_size),
        num_query_pool_stages=cfg.num_pools,
        blocks_per_stage=list(cfg.depths),
        embed_dim_per_stage=list(cfg.stage_widths),
        num_attention_heads_per_stage=list(cfg.stage_heads),
        window_size_per_stage=list(cfg.windows),
        global_attention_blocks=list(cfg.global_blocks),
        mlp_ratio=cfg.mlp_ratio,
        hidden_act="gelu",
        layer_norm_eps=cfg.norm_eps,
    )


def _qwen2_config(cfg: Qwen2Config, **changed: int) -> Any:
    from transformers import Qwen2Config as Config

    return _eager(
        Config,
        vocab_size=changed.get("vocab_size", cfg.vocab_size),
        hidden_size=cfg.width,
        intermediate_size=cfg.mlp_dim,
        num_hidden_layers=changed.get("depth", cfg.depth),
        num_attention_heads=cfg.num_heads,
        num_key_value_heads=cfg.num_kv_heads,
        head_dim=cfg.head_dim,
        rms_norm_eps=cfg.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": cfg.rope_theta},
        tie_word_embeddings=cfg.tie_embeddings,
    )


def _eager(kind: Any, **fields: Any) -> Any:
    """A config whose models use the plain attention: exact, and the same everywhere."""
    return kind(**fields, attn_implementation="eager")
