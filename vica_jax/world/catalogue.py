"""What stands in generated rooms, and the plurals of every category the project knows.

Lengths are metres: ``size`` is (along the wall, away from it, up). The colours were
chosen by a search for hues that stay apart under shades of 0.5 to 1 in OKLab, and
apart from pale walls and brown or grey floors; they are a code for a small model to
learn, not what furniture shops sell.
"""

from dataclasses import dataclass

from vica_jax.world.scene import SceneError


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A category: typical ``size``, how it is placed, how often it is drawn.

    ``place``: ``wall`` back to a wall · ``loose`` by a wall or anywhere · ``free`` out
    in the room · ``seat`` at a table or desk, or loose · ``hang`` on a wall, its lower
    edge at a height within ``hung``. ``several`` is the weight of being drawn as a
    group, ``endwise`` the share of pieces that stand with the short side to the wall,
    ``colour`` rgb in 0..1.
    """

    name: str
    size: tuple[float, float, float]
    colour: tuple[float, float, float]
    place: str
    weight: float = 1.0
    several: float = 0.0
    endwise: float = 0.0
    hung: tuple[float, float] = (0.0, 0.0)


_KINDS = (
    Kind(
        name="bed",
        size=(1.35, 1.9, 0.55),
        colour=(0.75, 0.38, 1.0),
        place="wall",
        several=0.5,
        endwise=0.45,
    ),
    Kind(
        name="sofa",
        size=(1.8, 0.85, 0.8),
        colour=(0.0, 0.25, 0.5),
        place="wall",
        several=0.5,
        endwise=0.05,
    ),
    Kind(
        name="wardrobe",
        size=(1.1, 0.58, 1.75),
        colour=(0.38, 0.0, 0.88),
        place="wall",
        several=0.3,
    ),
    Kind(
        name="refrigerator",
        size=(0.65, 0.65, 1.6),
        colour=(0.0, 0.75, 0.88),
        place="wall",
        several=0.15,
    ),
    Kind(
        name="bookshelf",
        size=(0.9, 0.33, 1.5),
        colour=(0.0, 0.0, 0.88),
        place="wall",
        several=0.9,
    ),
    Kind(
        name="desk",
        size=(1.25, 0.62, 0.75),
        colour=(1.0, 0.5, 0.75),
        place="wall",
        several=0.6,
        endwise=0.15,
    ),
    Kind(
        name="table",
        size=(1.2, 0.8, 0.72),
        colour=(1.0, 0.0, 0.5),
        place="free",
        several=0.8,
    ),
    Kind(
        name="heater",
        size=(0.95, 0.14, 0.6),
        colour=(0.63, 0.63, 1.0),
        place="wall",
        several=0.9,
    ),
    Kind(
        name="tv",
        size=(1.05, 0.08, 0.62),
        colour=(0.06, 0.06, 0.07),
        place="hang",
        several=0.3,
        hung=(0.85, 1.3),
    ),
    Kind(
        name="lamp",
        size=(0.36, 0.36, 1.3),
        colour=(1.0, 1.0, 0.0),
        place="loose",
        several=1.6,
    ),
    Kind(
        name="plant",
        size=(0.42, 0.42, 0.85),
        colour=(0.0, 1.0, 0.0),
        place="loose",
        several=1.8,
    ),
    Kind(
        name="chair",
        size=(0.47, 0.5, 0.85),
        colour=(0.88, 0.12, 0.0),
        place="seat",
        several=2.6,
    ),
    Kind(
        name="stool",
        size=(0.36, 0.36, 0.5),
        colour=(0.25, 1.0, 0.75),
        place="seat",
        several=1.8,
    ),
    Kind(
        name="box",
        size=(0.5, 0.38, 0.36),
        colour=(1.0, 0.0, 0.88),
        place="loose",
        several=1.8,
    ),
)
CATALOGUE: dict[str, Kind] = {kind.name: kind for kind in _KINDS}

# What a kind of room has more of than other rooms; nothing is ruled out, so that what
# is there never tells how large, or how far, it is.
THEMES: dict[str, tuple[str, ...]] = {
    "bedroom": ("bed", "wardrobe", "lamp", "heater", "desk"),
    "living room": ("sofa", "tv", "table", "bookshelf", "plant", "lamp"),
    "kitchen": ("refrigerator", "table", "chair", "stool", "heater"),
    "study": ("desk", "bookshelf", "chair", "lamp", "box"),
    "studio": ("bed", "sofa", "refrigerator", "table", "tv"),
}

_IRREGULAR = {"shelf": "shelves", "bookshelf": "bookshelves"}


def plural(category: str) -> str:
    """``"trash bin"`` -> ``"trash bins"``; SceneError for a category nobody listed."""
    if category in _IRREGULAR:
        return _IRREGULAR[category]
    if category not in CATALOGUE:
        raise SceneError(
            f"category {category!r} has no known plural: add it to the tables of "
            "vica_jax/world/catalogue.py"
        )
    return category + "s"
