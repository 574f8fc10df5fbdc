"""What stands in generated rooms, and the plurals of every category the project knows.

Lengths are metres: ``size`` is (along the wall, away from it, up). The colours were
chosen by a search for hues that stay apart under shades of 0.5 to 1 in OKLab, and
apart from pale walls and brown or grey floors; they are a code for a small model to
learn, not what furniture shops sell.
"""

from collections.abc import Iterable
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

# Nouns that annotations of rooms end in: the labels of ScanNet (its 200 classes),
# ScanNet++, ARKitScenes and VSI-Bench, and what else stands in homes and offices.
_NOUN_LIST = """
    alarm animal appliance armchair backpack bag ball bar basin basket bathrobe
    bathtub battery beam bed bench bicycle bike bin blackboard blanket blind
    board boiler book bookcase bottle bowl box breadbox brick briefcase broom
    brush bucket bunk cabinet cable calendar camera can candle cap car carpet
    carrier cart case ceiling chair chandelier chest cleaner clock closet cloth
    coat column comforter computer conditioner console container cooker cooler
    copier couch counter countertop cover crate crib cup cupboard curtain
    cushion cutter decoration desk detector detergent dish dishwasher dispenser
    display divider doll door doorframe drape drawer dresser dryer duct dumbbell
    dustpan easel extinguisher fan faucet file fireplace flag floor flower
    footrest footstool frame freezer fridge garbage glass glove grill guitar
    hamper handle handrail hanger hat head headboard headphone heater helmet
    holder hood hook hydrant iron jacket jar kettle key keyboard kitchenette
    knob ladder lamp lampshade lantern laptop ledge light lock locker
    loudspeaker loveseat machine magazine mailbox maker mannequin mat mattress
    microphone microscope microwave mirror monitor mop mug nightstand notebook
    object organizer ottoman outlet oven pack package pad painting pan panel
    paper partition pedestal phone photo photograph piano picture pillar pillow
    pipe pitcher plant plate plug plunger podium poster pot pouf pouffe printer
    projector purse quilt rack radiator rail railing rangehood recliner
    refrigerator remote robe rod roll roller router rug sack scale scanner
    screen screwdriver sculpture seat sheet shirt shoe shower shredder shutter
    sign sink skateboard slipper soap socket sofa speaker sponge stair stall
    stand statue stereo stick stool stove strip structure suitcase sweater
    switch table tank tap tapestry teapot telephone television thermostat tie
    tissue toaster toilet tool toolbox toothbrush towel tower toy tray treadmill
    tripod trolley tub tube tv umbrella unit urinal vacuum vanity vase vent wall
    wardrobe washbasin washer washstand watch whiteboard window windowsill
    workbench
"""
_NOUNS = frozenset(_NOUN_LIST.split())
_IRREGULAR = {
    "knife": "knives",
    "loaf": "loaves",
    "mouse": "mice",
    "person": "people",
    "shelf": "shelves",
    "bookshelf": "bookshelves",
}
_PLURAL = {
    "bookshelves",
    "clothes",
    "glasses",
    "pants",
    "scissors",
    "shelves",
    "trousers",
}
_UNCOUNTED = {"cardboard", "clothing", "furniture", "laundry", "luggage", "trash"}
_WITH_ES = ("s", "x", "z", "ch", "sh")


def shared_plurals(categories: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Plurals that are those of several categories, alphabetical, with the categories:
    ``{"glasses": ("glass", "glasses")}``. Nobody knows which of them are counted."""
    found: dict[str, list[str]] = {}
    for category in sorted(set(categories)):
        try:
            found.setdefault(plural(category), []).append(category)
        except SceneError:
            continue
    return {name: tuple(found[name]) for name in sorted(found) if len(found[name]) > 1}


def plural(category: str) -> str:
    """``"trash bin"`` -> ``"trash bins"``, ``"tv_monitor"`` -> ``"tv_monitors"``.

    The last word takes the plural, or the last before ``of``; the words in front of it
    are free. SceneError for a category whose last word nobody listed. (inflect and
    pattern make a plural of any string, so a label that is no noun would be asked
    about; a list says so.)
    """
    noun, of, rest = category.partition(" of ")
    start = max(noun.rfind(mark) for mark in " _-") + 1
    front, word = noun[:start], noun[start:]
    known = word.lower()
    if known in _PLURAL or (known[-1:] == "s" and known[:-1] in _NOUNS):
        return category
    if known in _UNCOUNTED:
        return f"pieces of {category}"
    if known in _IRREGULAR:
        word = _IRREGULAR[known]
    elif known not in _NOUNS:
        raise SceneError(
            f"category {category!r} has no known plural: use a common noun, or add "
            "it to the tables of vica_jax/world/catalogue.py"
        )
    elif known.endswith(_WITH_ES):
        word += "es"
    elif known.endswith("y") and known[-2] not in "aeiou":
        word = word[:-1] + "ies"
    else:
        word += "s"
    return front + word + of + rest
