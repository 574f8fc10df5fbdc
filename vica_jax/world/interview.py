"""All that is asked and told about one scene, as the records that are written of it."""

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from vica_jax.world.asking import ask_all
from vica_jax.world.description import COMPLEX
from vica_jax.world.dialogue import Turns, converse
from vica_jax.world.question import Question
from vica_jax.world.records import (
    TASK_FILES,
    Record,
    SceneRecords,
    make_record,
    video_name,
)
from vica_jax.world.room import Room
from vica_jax.world.scene import Scene
from vica_jax.world.thinking import think_of_room

ASKED, TOLD = 50, 51  # streams of the seed: questions, and all other records


def interview(
    scene: Scene,
    seed: int,
    *,
    number: int | None = None,
    per_task: int | None = None,
    thoughts: int = 1,
    hidden: Iterable[int] = (),
    problems: list[str] | None = None,
    missing: Counter[str] | None = None,
) -> SceneRecords:
    """Questions, dialogue, descriptions and thoughts of one scene.

    Args:
      scene: usable (``check.usable``), with ``first_seen`` where a film is known.
      number: the room's number under the seed; None takes one from the names of scene
        and dataset, so that a scene has its questions whatever else is asked about.
      per_task: questions of a task at most, as ``ask_all``.
      thoughts: thinking records at most, each of another task.
      hidden: numbers of boxes that the camera never sees.
      problems: gets a line for each thing that cannot be asked about.
      missing: counts complex kinds for which the scene tells too little.

    Raises:
      SceneError: a name that is no file name; what ``ask_all`` raises.
    """
    video, hidden = video_name(scene), tuple(hidden)
    if number is None:
        number = zlib.crc32(video.encode())
    rng = np.random.default_rng([seed, ASKED, number])
    questions = ask_all(scene, rng, per_task=per_task, hidden=hidden, problems=problems)
    files: dict[str, list[Record]] = {}
    for question in questions:
        name = f"base/{TASK_FILES[question.task]}"
        turns = [(question.human_turn(), question.text_answer)]
        files.setdefault(name, []).append(make_record(turns, video=video))
    rng = np.random.default_rng([seed, TOLD, number])
    for name, turns in tell(Room(scene, hidden), questions, rng, thoughts=thoughts):
        if turns is not None:
            files.setdefault(name, []).append(make_record(turns, video=video))
        elif missing is not None:
            missing[name.removeprefix("complex/")] += 1
    # The file gives the ids.
    rows = [question.vsi_row(0) for question in questions if question.in_vsi_bench]
    return SceneRecords(dataset=scene.dataset, scene=scene.name, files=files, rows=rows)


def tell(
    room: Room,
    questions: Sequence[Question],
    rng: np.random.Generator,
    *,
    thoughts: int,
) -> Iterator[tuple[str, Turns | None]]:
    """A dialogue, descriptions and at most ``thoughts`` thoughts: the file that each
    belongs to and its turns, None where the room tells too little."""
    yield "complex/conversation", converse(room, questions, rng)
    for kind, describe in COMPLEX.items():
        yield f"complex/{kind}", describe(room, rng)
    for question, text in think_of_room(room, questions, rng, most=thoughts):
        yield "thinking", [(question.human_turn(), text)]
