"""All questions on a scene: the front door of the ``ask_*`` modules."""

from collections.abc import Iterable

import numpy as np

from vica_jax.world.ask_direction import ask_directions
from vica_jax.world.ask_distance import ask_abs_distance, ask_rel_distance, ask_triangle
from vica_jax.world.ask_numbers import ask_counting, ask_room, ask_size
from vica_jax.world.ask_order import ask_order
from vica_jax.world.ask_route import ask_routes
from vica_jax.world.askable import Askable
from vica_jax.world.question import Question
from vica_jax.world.scene import Scene

PER_TASK = 6
TASKS = (
    "object_counting",
    "object_abs_distance",
    "object_size_estimation",
    "room_size_estimation",
    "object_rel_distance",
    "object_rel_direction_easy",
    "object_rel_direction_medium",
    "object_rel_direction_hard",
    "route_planning",
    "obj_appearance_order",
    "triangular_positional_relationship",
)


def ask_all(
    scene: Scene,
    rng: np.random.Generator,
    *,
    per_task: int | None = None,
    hidden: Iterable[int] = frozenset(),
    problems: list[str] | None = None,
) -> list[Question]:
    """Questions of every task on ``scene``, at most ``per_task`` of each.

    Args:
      scene: usable, that is with finite boxes of positive size. Order is asked about
        where ``first_seen`` is known, and then nothing is asked of what was not seen.
      rng: drawn from once; each task has a stream of its own, so that its questions do
        not depend on the others.
      per_task: None is ``PER_TASK``. There is one question on the room.
      hidden: numbers of boxes that the camera never sees; their categories are left
        out.
      problems: what cannot be asked goes here, one line each.

    Raises:
      SceneError: something cannot be asked (a category has no plural) and ``problems``
        is None.
    """
    most = PER_TASK if per_task is None else per_task
    askable = Askable(scene, hidden)
    seeds = rng.integers(2**63, size=len(TASKS))
    questions: list[Question] = []
    for task, seed in zip(TASKS, seeds, strict=True):
        own = np.random.default_rng(seed)
        if task == "object_counting":
            questions += ask_counting(askable, own, most, problems)
        elif task.startswith("object_rel_direction_"):
            level = task.removeprefix("object_rel_direction_")
            questions += ask_directions(askable, own, most, level)
        else:
            questions += _ASK[task](askable, own, most)
    return questions


_ASK = {
    "object_abs_distance": ask_abs_distance,
    "object_size_estimation": ask_size,
    "room_size_estimation": ask_room,
    "object_rel_distance": ask_rel_distance,
    "route_planning": ask_routes,
    "obj_appearance_order": ask_order,
    "triangular_positional_relationship": ask_triangle,
}
