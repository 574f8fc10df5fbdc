"""Frozen configs of the towers and the whole model: sizes only, no behaviour.

One vocabulary for every tower: ``width depth num_heads num_kv_heads head_dim mlp_dim
vocab_size norm_eps rope_theta``. Published variants are data, in ``variants.py``.
"""

from dataclasses import dataclass, replace

from vica_jax.errors import InputError
from vica_jax.layout import LayoutError, VisualLayout


class ConfigError(InputError):
    """A configuration no model can be built from; the message says which field."""


@dataclass(frozen=True, kw_only=True)
class SiglipConfig:
    """SigLIP vision tower as kept by the reference (its last layer dropped)."""

    image_size: int
    patch_size: int
    width: int
    depth: int  # layers kept: 26 of so400m's 27
    num_heads: int
    mlp_dim: int
    norm_eps: float = 1e-6
    pixel_mean: float = 0.5
    pixel_std: float = 0.5

    def __post_init__(self):
        _divides("SigLIP", "num_heads", self.num_heads, "width", self.width)

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size


@dataclass(frozen=True, kw_only=True)
class HieraConfig:
    """SAM 2.1's Hiera backbone, without its FPN neck."""

    image_size: int
    width: int  # of the first stage
    num_heads: int  # of the first stage
    depths: tuple[int, ...]
    global_blocks: tuple[int, ...]
    windows: tuple[int, ...]  # window side per stage
    pos_embed_size: tuple[int, int]
    num_pools: int = 3  # stages that begin with query pooling
    pool: int = 2  # query pooling stride
    width_mul: float = 2.0
    head_mul: float = 2.0
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    patch_stride: int = 4
    antialias: bool = False  # of the pixel resize; torchvision >= 0.17 antialiases

    def __post_init__(self):
        if len(self.windows) != len(self.depths):
            raise ConfigError(
                f"Hiera: {len(self.windows)} windows for {len(self.depths)} stages"
            )
        if not 0 <= self.num_pools < len(self.depths):
            raise ConfigError(
                f"Hiera: num_pools must lie in 0..{len(self.depths) - 1}, "
                f"got {self.num_pools}"
            )
        total = sum(self.depths)
        for block in self.global_blocks:
            if not 0 <= block < total:
                raise ConfigError(
                    f"Hiera: global block {block} of a model with {total} blocks"
                )
            if block in self.pool_blocks:
                raise ConfigError(
                    f"Hiera: block {block} is global and query-pooling, which the "
                    "reference leaves undefined (it divides by zero)"
                )
        for stage in range(self.num_pools):
            if self.windows[stage] % self.pool:
                raise ConfigError(
                    f"Hiera: the window {self.windows[stage]} of stage {stage + 1} is "
                    f"not a multiple of the query pooling {self.pool}"
                )
        smallest = self.patch_stride * self.pool**self.num_pools
        if self.image_size % smallest:
            raise ConfigError(
                f"Hiera: image_size {self.image_size} is not a multiple of {smallest}"
            )
        if self.image_size // self.patch_stride % self.windows[0]:
            raise ConfigError(
                f"Hiera: the window embedding of side {self.windows[0]} does not tile "
                f"a grid of {self.image_size // self.patch_stride}"
            )
        for stage, (width, heads) in enumerate(
            zip(self.stage_widths, self.stage_heads, strict=True)
        ):
            _divides(f"Hiera stage {stage + 1}", "num_heads", heads, "width", width)

    @property
    def stage_widths(self) -> tuple[int, ...]:
        widths = [self.width]
        for _ in self.depths[1:]:
            widths.append(int(widths[-1] * self.width_mul))
        return tuple(widths)

    @property
    def stage_heads(self) -> tuple[int, ...]:
        heads = [self.num_heads]
        for _ in self.depths[1:]:
            heads.append(int(heads[-1] * self.head_mul))
        return tuple(heads)

    @property
    def stage_starts(self) -> tuple[int, ...]:
        return tuple(sum(self.depths[:s]) for s in range(len(self.depths)))

    @property
    def pool_blocks(self) -> tuple[int, ...]:
        """Blocks that pool their queries: the first of stages 2 .. num_pools + 1."""
        return self.stage_starts[1 : self.num_pools + 1]

    def stage_of(self, block: int) -> int:
        """Stage of a block, from 0."""
        return sum(block >= start for start in self.stage_starts[1:])

    def window_of(self, block: int) -> int:
        """Window side of a block, 0 for global attention.

        The first block of a stage still uses the window of the stage before.
        """
        if block in self.global_blocks:
            return 0
        return self.windows[self.stage_of(max(block - 1, 0))]


@dataclass(frozen=True, kw_only=True)
class Qwen2Config:
    """Qwen2 decoder: grouped-query attention with biased q, k, v; SwiGLU; RMSNorm."""

    width: int
    depth: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    vocab_size: int
    norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    tie_embeddings: bool = False

    def __post_init__(self):
        _divides(
            "Qwen2", "num_kv_heads", self.num_kv_heads, "num_heads", self.num_heads
        )
        if self.head_dim % 2:
            raise ConfigError(f"Qwen2: head_dim must be even, got {self.head_dim}")


@dataclass(frozen=True, kw_only=True)
class VicaConfig:
    """The whole model. ``hiera`` is None for the SigLIP-only family (ViCA)."""

    siglip: SiglipConfig
    llm: Qwen2Config
    layout: VisualLayout
    hiera: HieraConfig | None = None

    def __post_init__(self):
        layout, siglip, hiera = self.layout, self.siglip, self.hiera
        if (layout.siglip_image_size, layout.siglip_patch_size) != (
            siglip.image_size,
            siglip.patch_size,
        ):
            raise ConfigError("layout and SigLIP disagree on image or patch size")
        if layout.hiera_image_size != (hiera.image_size if hiera else None):
            raise ConfigError("layout and Hiera disagree on the image size")
        if hiera and layout.output_stage > len(hiera.depths):
            raise LayoutError(
                f"output_stage {layout.output_stage} of {len(hiera.depths)} stages"
            )

    @property
    def hiera_out_width(self) -> int:
        """Width of the Hiera stage that is projected (input of its projector)."""
        assert self.hiera is not None
        return self.hiera.stage_widths[self.layout.output_stage - 1]

    def with_layout(self, layout: VisualLayout) -> "VicaConfig":
        return replace(self, layout=layout)


def make_layout(
    siglip: SiglipConfig, hiera: HieraConfig | None = None, **fields
) -> VisualLayout:
    """The layout that goes with two tower configs; ``fields`` are VisualLayout's."""
    if hiera is not None:
        fields |= {
            "hiera_image_size": hiera.image_size,
            "hiera_patch_stride": hiera.patch_stride,
            "hiera_num_stages": len(hiera.depths),
            "hiera_num_pools": hiera.num_pools,
            "hiera_pool": hiera.pool,
        }
    return VisualLayout(
        siglip_image_size=siglip.image_size,
        siglip_patch_size=siglip.patch_size,
        **fields,
    )


def _divides(part: str, small: str, a: int, large: str, b: int) -> None:
    if a < 1 or b % a:
        raise ConfigError(f"{part}: {small} = {a} does not divide {large} = {b}")
