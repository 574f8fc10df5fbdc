"""The objective against a plain forward pass of film and question in one row."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.pretrain.small_rooms import CFG, SIGLIP
from vica_jax.data.example import Example, collate_training, image_medium
from vica_jax.models.config import VicaConfig, make_layout
from vica_jax.models.vica import Vica, abstract_vica, init_vica
from vica_jax.pretrain.loss import (
    Objective,
    film_places,
    init_heads,
    objective_loss,
)
from vica_jax.pretrain.settings import ObjectiveSettings
from vica_jax.pretrain.targets import CAPTION, LISTED, ROOM, THING

BEFORE = (5, 6, 7)
OBJECTIVE = Objective(
    before=BEFORE,
    num_categories=3,
    settings=ObjectiveSettings(
        place_layer=1, mention_layer=1, pair_layer=1, fact_layer=2, option_layer=2
    ),
)
F, T = 4, 12


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)

    def questions(count, length):
        answers = np.full((2, count, length), -1)
        answers[:, :, 4:6] = rng.integers(0, 90, (2, count, 2))
        marks = np.full((2, count, length), -1)
        marks[:, :, [1, 6]] = rng.integers(0, 90, (2, count, 2))
        mentioned = rng.integers(-1, 3, (2, count, length))
        tokens = rng.integers(0, 90, (2, count, length))
        facts = rng.standard_normal((2, count, length, 3)).astype(np.float32)
        facts[rng.random(facts.shape) < 0.7] = np.nan
        pairs, rights = facts[..., :2] - 1, (facts[..., 2] > 0) + 0 * facts[..., 2]
        return tokens, answers, marks, mentioned, facts, pairs, rights

    arrays = {}
    for k, size in enumerate(((2, T), (1, T + 6))):
        names = "questions", "answers", "marks", "mentioned", "facts"
        names = *names, "pairs", "rights"
        for name, array in zip(names, questions(*size), strict=True):
            arrays[f"{name}/{k}"] = array
    cells = rng.random((2, F, 2, 2, 3, 4)).astype(np.float32)
    cells[..., 0] = cells[..., 0] > 0.5
    mentions = rng.random((2, 3, 7)).astype(np.float32)
    mentions[..., [0, 2]] = mentions[..., [0, 2]] > 0.3
    arrays |= {
        "frames": rng.integers(0, 255, (2, F, 56, 56, 3)).astype(np.uint8),
        "hiera_frames": rng.integers(0, 255, (2, 2, 36, 48, 3)).astype(np.uint8),
        "hiera_frame_sizes": np.full((2, 2), (36, 48)),
        "cells": cells,
        "places": cells[..., :3],
        "poses": rng.random((2, F, 6)).astype(np.float32),
        "mentions": mentions,
        "objects": rng.standard_normal((2, LISTED, 3 + THING + ROOM)),
    }
    examples = [caption(rng, length) for length in (3, 4)]
    exact = [example.shape(CFG.layout) for example in examples]
    shape = replace(exact[1], targets=6)
    pairs = collate_training(examples, CFG.layout, shape)
    told, taught = rng.integers(0, 90, (2, 2, 2, 7))
    taught[:, :, 5:] = -1
    taught[0, 1, :3] = -1
    arrays |= {"told": told, "taught": taught}
    arrays |= {f"{CAPTION}{name}": array[:, None] for name, array in pairs.items()}
    return {name: jnp.asarray(array) for name, array in arrays.items()}


def caption(rng, length):
    """A picture between two tokens and some that are labels."""
    picture = Image.fromarray(rng.integers(0, 255, (36, 48, 3)).astype(np.uint8))
    ids = rng.integers(0, 90, length).tolist()
    return Example(
        chunks=[[5, 6], ids],
        media=[image_medium(picture, CFG.layout, "anyres")],
        supervised=[[False] * 2, [True] * length],
    )


@pytest.fixture(scope="module")
def model():
    return Vica(CFG, jnp.float32)


@pytest.fixture(scope="module")
def params():
    return init_vica(CFG, jax.random.key(0))


@pytest.fixture(scope="module")
def heads():
    return init_heads(OBJECTIVE, CFG.llm.width, jax.random.key(1))


@pytest.fixture(scope="module")
def result(model, params, heads, batch):
    def loss(params, heads):
        return objective_loss(model, OBJECTIVE, params, heads, batch, phase="captions")

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    return jax.device_get(step(params, heads))


@pytest.fixture(scope="module")
def plain(model, params, batch):
    """``(b, tokens) -> log-probabilities [T,V]`` behind film b, as one sequence."""
    layout = CFG.layout
    rows = layout.video_rows(layout.bank(frames=F, hiera_frames=2), F)
    before = len(BEFORE) + len(rows)

    @jax.jit
    def logits(tokens, film):
        index = [-1] * len(BEFORE) + rows.tolist() + [-1] * (len(tokens) - before)
        plain = {
            "tokens": tokens[None],
            "visual_index": jnp.array([index]),
            "lengths": jnp.array([len(tokens)]),
            **film,
        }
        return model.apply({"params": params}, plain)[0]

    def behind(b, tokens):
        film = {
            name: batch[name][b : b + 1]
            for name in ("frames", "hiera_frames", "hiera_frame_sizes")
        }
        row = np.concatenate([BEFORE, np.zeros(len(rows), int), tokens])
        return jax.nn.log_softmax(logits(jnp.asarray(row), film)[before:])

    return behind


def test_answers_cost_what_they_cost_in_rows_of_their_own(batch, plain, result):
    costs = {"answers": [], "marks": []}
    for k in range(2):
        tokens = batch[f"questions/{k}"]
        for b, q in np.ndindex(tokens.shape[:2]):
            logp = plain(b, tokens[b, q])
            for name, found in costs.items():
                labels = batch[f"{name}/{k}"][b, q]
                at = np.flatnonzero(labels >= 0)
                found.append([-logp[t, labels[t]] for t in at])
    (_, parts), _ = result
    answers = np.mean([np.mean(row) for row in costs["answers"]])  # rows count alike
    assert parts["answers"] == pytest.approx(answers, rel=1e-5)
    assert parts["marks"] == pytest.approx(np.mean(costs["marks"]), rel=1e-5)


def test_captions_cost_what_the_stages_trainer_says(model, params, batch, result):
    pairs = {
        name.removeprefix(CAPTION): array.reshape(-1, *array.shape[2:])
        for name, array in batch.items()
        if name.startswith(CAPTION)
    }
    logp = jax.nn.log_softmax(model.apply({"params": params}, pairs))
    costs = [
        -logp[row, at, target]
        for row in range(2)
        for at, target in zip(
            pairs["target_positions"][row], pairs["targets"][row], strict=True
        )
        if target >= 0
    ]
    (_, parts), _ = result
    assert len(costs) == 3 + 4
    assert parts["captions"] == pytest.approx(np.mean(costs), rel=1e-5)


def test_records_cost_what_a_plain_pass_says(batch, plain, result):
    costs = []
    for b, row in np.ndindex(2, 2):
        logp = plain(b, batch["told"][b, row])
        taught = np.asarray(batch["taught"][b, row])
        costs += [-logp[at, taught[at]] for at in np.flatnonzero(taught >= 0)]
    (_, parts), _ = result
    assert len(costs) == 4 * 5 - 3
    assert parts["records"] == pytest.approx(np.mean(costs), rel=1e-5)


def test_every_part_of_the_model_and_every_head_learns(result):
    (loss, parts), (grads, heads) = result
    assert np.isfinite(loss) and all(np.isfinite(x) for x in parts.values())
    still = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path((grads, heads))
        if not np.abs(leaf).max() > 0
    ]
    # Nothing reads SigLIP's last norm; a key's bias shifts all scores of a query alike;
    # lists of objects are another phase's.
    idle = "post_norm", "k_proj", "['objects']"
    assert all(any(name in path for name in idle) for path in still), still
    assert any("['objects']" in path for path in still), still


@pytest.fixture(scope="module")
def gradients(model, params, heads, batch):
    """Of parameters and heads by phase, with the parts of the loss."""

    def of(phase):
        def loss(params, heads):
            return objective_loss(model, OBJECTIVE, params, heads, batch, phase=phase)

        step = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
        return jax.device_get(step(params, heads))

    return {phase: of(phase) for phase in ("objects", "films")}


def test_encoders_learn_the_same_from_lists_and_films(gradients):
    listed, filmed = gradients["objects"][0][0], gradients["films"][0][0]
    for name in ("siglip", "hiera", "siglip_projector", "hiera_projector"):
        pairs = zip(*map(jax.tree.leaves, (listed[name], filmed[name])), strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
            assert np.isfinite(a).all()
    for grads in (listed, filmed):
        assert np.abs(grads["llm"]["final_norm"]["scale"]).max() > 0


def test_lists_stand_in_for_films(gradients):
    (_, heads), parts = gradients["objects"]
    _, of_film = gradients["films"]
    assert set(of_film) - set(parts) == {"places", "poses", "place_error", "pose_error"}
    assert not np.abs(heads["places"]["kernel"]).max()
    for name in ("objects", "mentions", "pairs", "facts", "options"):
        assert np.abs(heads[name]["kernel"]).max() > 0


@pytest.fixture(scope="module")
def parts_of(model, params, heads):
    def of(phase, batch):
        return objective_loss(model, OBJECTIVE, params, heads, batch, phase=phase)[1]

    return jax.jit(of, static_argnums=0)


@pytest.mark.parametrize(
    ("phase", "of_lists", "of_films"),
    [
        ("objects", ("mentions", "facts", "answers"), ("siglip_cells",)),
        ("films", ("pairs", "facts", "options", "answers"), ("mentions", "places")),
        ("joint", (), ("mentions", "facts", "answers", "places")),
    ],
)
def test_what_a_phase_reads_off_lists_and_films(
    parts_of, batch, phase, of_lists, of_films
):
    before = parts_of(phase, batch)
    for name, of in (("objects", of_lists), ("frames", of_films)):
        after = parts_of(phase, batch | {name: batch[name][::-1]})
        changed = {key for key in before if before[key] != after[key]}
        other = of_films if name == "objects" else of_lists
        assert changed.issuperset(of) and not changed.intersection(other), name


def test_only_a_joint_step_reaches_back_into_the_encoders(gradients, result):
    _, (grads, _) = result
    alone = gradients["films"][0][0]["hiera_projector"]
    pairs = zip(*map(jax.tree.leaves, (alone, grads["hiera_projector"])), strict=True)
    assert any(np.abs(a - b).max() > 1e-6 for a, b in pairs)


def test_film_places_are_the_tokens_that_are_no_newline():
    layout = CFG.layout
    at, frame, cell = film_places(layout, F)
    offsets = layout.bank(frames=F, hiera_frames=2)
    rows = layout.video_rows(offsets, F)
    assert sorted(at) == np.flatnonzero(rows != 0).tolist()
    side = layout.siglip_pooled_grid**2
    for place, f, c in zip(at, frame, cell, strict=True):
        row = rows[place]
        if row < offsets.hiera_frames:
            assert row == offsets.frames + f * side + c
        else:
            own = layout.hiera_pooled_grid**2
            assert row == offsets.hiera_frames + f // layout.frame_stride * own + c


def test_siglip_alone_has_the_same_losses_without_hieras(batch, heads):
    layout = make_layout(SIGLIP, num_frames=F, context_length=512)
    alone = VicaConfig(siglip=SIGLIP, llm=CFG.llm, layout=layout)

    def parts(cfg, batch):
        model, (params, _) = Vica(cfg, jnp.float32), abstract_vica(cfg)
        loss = lambda params: objective_loss(
            model, OBJECTIVE, params, heads, batch, phase="films"
        )
        return set(jax.eval_shape(loss, params)[1])

    both = parts(CFG, batch)
    seen = {name: array for name, array in batch.items() if "hiera" not in name}
    found = parts(alone, seen)
    assert found == {name for name in both if not name.startswith("hiera")} != both
