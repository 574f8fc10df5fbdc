"""Questions on the order in which a film first shows four categories."""

from itertools import combinations, pairwise

import numpy as np

from vica_jax.world.askable import Askable, draw
from vica_jax.world.question import Question, letter_options, make_question

LEAST_LATER = 0.6  # seconds between two first appearances
OPTIONS = 4


def ask_order(askable: Askable, rng: np.random.Generator, most: int) -> list[Question]:
    """The order of first appearance of four categories; none without a film.

    The wrong options are other orders, each as likely as any. ``truth``: ``seconds``
    (category: second), ``order``.
    """
    scene = askable.scene
    if scene.first_seen is None:
        return []
    seen = scene.first_seen
    by_time = sorted(askable.counted, key=lambda c: (seen[c], c))
    fours = [
        four
        for four in combinations(by_time, 4)
        if all(seen[b] - seen[a] >= LEAST_LATER - 1e-9 for a, b in pairwise(four))
    ]
    questions = []
    for four in draw(rng, [fours], most):
        right = ", ".join(four)
        orders = [right]
        while len(orders) < OPTIONS:
            order = ", ".join(four[k] for k in rng.permutation(4))
            if order not in orders:
                orders.append(order)
        options, answer = letter_options(rng, right, orders[1:])
        listed = [four[k] for k in rng.permutation(4)]
        questions.append(
            make_question(
                scene,
                rng,
                "obj_appearance_order",
                listed,
                answer=answer,
                options=options,
                slots={"listed": ", ".join(listed)},
                truth={
                    "seconds": {c: float(seen[c]) for c in four},
                    "order": list(four),
                },
            )
        )
    return questions
