"""The two projectors and the newline embedding, under the reference's names."""

from convert.ops import Identity, Transpose
from convert.rules import Row, Rule, expand


def _mlp(hf: str, own: str) -> tuple[Rule, ...]:
    """Linear, GELU, Linear: a torch Sequential whose layers are numbered 0 and 2."""
    return (
        Rule(f"{hf}.0.weight", f"{own}/fc1/kernel", Transpose(), "D C"),
        Rule(f"{hf}.0.bias", f"{own}/fc1/bias", Identity(), "D"),
        Rule(f"{hf}.2.weight", f"{own}/fc2/kernel", Transpose(), "D D"),
        Rule(f"{hf}.2.bias", f"{own}/fc2/bias", Identity(), "D"),
    )


SIGLIP = _mlp("model.mm_projector", "siglip_projector")
HIERA = _mlp("model.sam_projector", "hiera_projector")
NEWLINE = (Rule("model.image_newline", "newline", Identity(), "D"),)


def siglip_projector_rows(in_width: int, out_width: int) -> list[Row]:
    return expand(SIGLIP, {"C": in_width, "D": out_width})


def hiera_projector_rows(in_width: int, out_width: int) -> list[Row]:
    return expand(HIERA, {"C": in_width, "D": out_width})


def newline_rows(width: int) -> list[Row]:
    return expand(NEWLINE, {"D": width})
