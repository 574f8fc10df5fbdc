"""The objective: answers to many questions per film, and auxiliary losses on the way.

A film is encoded and prefilled once; its questions follow it side by side, each seeing
the film and itself, as in a ``VideoSession``. Linear heads, which are thrown away
afterwards, read off what the model should know:

* projected tokens of both encoders: which categories a cell shows, where those are from
  the camera, by the compass, and where the camera looks;
* the language model's film tokens after ``place_layer`` layers: where they are in the
  room, and the camera's pose;
* its question tokens that name a category, after ``mention_layer`` layers: how many
  there are of it, where, how large, and when they are first seen; after ``pair_layer``
  layers where it lies from the thing named before it; after ``fact_layer`` layers, at
  the last one named, what the answer follows from, a number's logarithm or an angle;
* the last token before an answer: the same number or angle; at an option of a relative
  distance, that distance;
* the last token of each option, after ``option_layer`` layers: whether it is right.

While a room is a list of objects (``Phase``), linear embeddings of those stand where
the film's tokens will be; while films are only read, their places and mentions count,
and all else is of the lists. Logits are made of labels alone.

Axes: B films, F frames, P film tokens, Q questions, T question tokens, C categories.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vica_jax.models.cache import Prefix
from vica_jax.models.vica import Vica
from vica_jax.pretrain.settings import ObjectiveSettings, Phase
from vica_jax.pretrain.targets import (
    ANSWER,
    CAPTION,
    CELL,
    FACT,
    MARKS,
    MENTION,
    PAIR,
    PLACE,
    POSE,
    ROOM,
    THING,
)
from vica_jax.train.loss import batch_nll, cross_entropy
from vica_jax.typing import Params

LIST_STD = 0.1  # of fresh embeddings of listed objects
NEAR = 0.1  # units of a target
# What is read off tokens that name a category.
MENTIONS = "mentions", "count_error", "where_error", "size_error", "when_error"
Arrays = dict[str, jax.Array]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is asked: ``before`` are the tokens in front of every film."""

    before: tuple[int, ...]
    num_categories: int
    settings: ObjectiveSettings


def init_heads(objective: Objective, width: int, key: jax.Array) -> Params:
    """Fresh linear heads: ``{name: {kernel [D,n], bias [n]}}``."""
    C = objective.num_categories
    sizes = {
        "siglip_cells": C * CELL,
        "hiera_cells": C * CELL,
        "siglip_heading": 2,
        "hiera_heading": 2,
        "places": C * PLACE,
        "poses": POSE,
        "mentions": MENTION,
        "pairs": PAIR,
        "facts": FACT,
        "options": 1,
    }
    keys = jax.random.split(key, len(sizes))
    heads = {}
    for (name, size), own in zip(sizes.items(), keys, strict=True):
        kernel = jax.random.normal(own, (width, size), jnp.float32) * width**-0.5
        heads[name] = {"kernel": kernel, "bias": jnp.zeros(size, jnp.float32)}
    shape = C + THING + ROOM, width
    kernel = jax.random.normal(jax.random.fold_in(key, 1), shape, jnp.float32)
    return heads | {"objects": {"kernel": LIST_STD * kernel}}


def objective_loss(
    model: Vica,
    objective: Objective,
    params: Params,
    heads: Params,
    batch: Arrays,
    *,
    phase: Phase,
) -> tuple[jax.Array, Arrays]:
    """The loss of a batch and its parts (``pretrain.rooms`` says what is in one)."""
    bank = _apply(model, params, batch, method="visual_bank")
    parts = _cell_parts(model, heads, bank, batch)
    cells = parts["siglip_cells"] + parts.get("hiera_cells", 0.0)
    weights = objective.settings
    total = weights.cell_weight * cells
    things = batch["objects"] @ heads["objects"]["kernel"]

    def ask(kv: Any) -> Arrays:
        return _question_parts(model, objective, params, heads, kv, batch)

    if phase in ("objects", "films"):
        kv, _ = _prefill(model, objective, params, things)
        parts |= ask(kv)
        total += weights.mention_weight * parts["mentions"]
    if phase != "objects":
        if phase == "films":
            bank = jax.lax.stop_gradient(bank)
        rows = _film_rows(model, batch)
        kv, outputs = _prefill(model, objective, params, bank[:, rows])
        film = outputs[weights.place_layer - 1][:, len(objective.before) :]
        parts |= _place_parts(model, heads, film, batch)
        total += weights.place_weight * (parts["places"] + parts["poses"])
        asked = ask(kv)
        parts |= {name: asked[name] for name in MENTIONS} if phase == "films" else asked
        total += weights.mention_weight * parts["mentions"]
        if phase == "captions":
            parts["captions"] = _caption_part(model, params, batch)
            parts["records"] = _record_part(model, params, kv, batch)
            total += weights.caption_weight * parts["captions"]
            total += weights.record_weight * parts["records"]
    total += weights.pair_weight * parts["pairs"]
    total += weights.fact_weight * parts["facts"]
    total += weights.option_weight * parts["options"]
    total += weights.answer_weight * parts["answers"]
    if phase == "captions":
        total += weights.mark_weight * parts["marks"]
    else:  # not learned yet
        del parts["marks"]
    return total, parts


def _caption_part(model: Vica, params: Params, batch: Arrays) -> jax.Array:
    """What the stages' trainer minimises, of the captions ``[B,n,...]``."""
    pairs: Any = {
        name.removeprefix(CAPTION): array.reshape(-1, *array.shape[2:])
        for name, array in batch.items()
        if name.startswith(CAPTION)
    }
    nll = batch_nll(model, params, pairs)
    return nll.sum() / jnp.maximum((pairs["targets"] >= 0).sum(), 1)


def _record_part(model: Vica, params: Params, kv: Any, batch: Arrays) -> jax.Array:
    """The same of what is told ``[B,n,T]`` of the films whose ``kv`` are given."""
    hidden, _ = _behind_films(model, params, kv, batch["told"])
    taught = batch["taught"].reshape(-1, hidden.shape[2])
    kernel = _output_kernel(model, params)
    hidden = hidden.reshape(*taught.shape, -1)
    nll = cross_entropy(hidden, kernel, jnp.maximum(taught, 0))
    there = taught >= 0
    return (nll * there).sum() / jnp.maximum(there.sum(), 1)


def _behind_films(
    model: Vica, params: Params, kv: Any, tokens: jax.Array
) -> tuple[jax.Array, list[jax.Array]]:
    """Rows of tokens ``[B,Q,T]``, each after the film whose ``kv`` are given: normed
    hidden states ``[B,Q,T,D]`` and those after every layer."""

    def follow(kv, tokens):
        layers = [(k.swapaxes(0, 1), v.swapaxes(0, 1)) for k, v in kv]
        length = jnp.asarray(kv[0][0].shape[0], jnp.int32)

        def run(module: Vica, tokens: jax.Array):
            x = module.llm.embed(tokens)
            positions = jnp.broadcast_to(length + jnp.arange(x.shape[1]), x.shape[:2])
            hidden, _ = module.llm(x, positions, prefix=Prefix(layers, length))
            return module.llm.final_norm(hidden)

        hidden, sown = model.apply(
            {"params": params}, tokens, method=run, mutable=["intermediates"]
        )
        return hidden, _outputs(sown)

    return jax.vmap(follow)(kv, tokens)


def _output_kernel(model: Vica, params: Params) -> jax.Array:
    return _apply(model, params, method=lambda module: module.llm.output_kernel())


def _apply(model: Vica, params: Params, *inputs: Any, method: Any) -> Any:
    return model.apply({"params": params}, *inputs, method=method)


def _head(heads: Params, name: str, x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) @ heads[name]["kernel"] + heads[name]["bias"]


def _seen_loss(logits: jax.Array, seen: jax.Array) -> jax.Array:
    """Cross-entropy of yes or no, the mean over everything but categories, summed."""
    losses = jnp.logaddexp(0.0, logits) - logits * seen
    return losses.mean(range(losses.ndim - 1)).sum()


def _where(values: jax.Array, targets: jax.Array, seen: jax.Array) -> jax.Array:
    """Mean gap where seen, summed over the numbers of one thing."""
    gaps = _gap(values, targets).sum(-1) * seen
    return gaps.sum() / jnp.maximum(seen.sum(), 1)


def _gap(x: jax.Array, y: jax.Array) -> jax.Array:
    """The absolute difference, rounded off below NEAR (pseudo-Huber): what is nearly
    right leaves the gradient to the answers."""
    return jnp.sqrt(jnp.square(x - y) + NEAR**2) - NEAR


# ------------------------------------------------------------------------- encoders
def _cell_parts(model: Vica, heads: Params, bank: jax.Array, batch: Arrays) -> Arrays:
    layout, num_frames = model.cfg.layout, batch["frames"].shape[1]
    offsets = layout.bank(
        frames=num_frames, hiera_frames=layout.num_hiera_frames(num_frames)
    )
    streams = {"siglip_cells": (offsets.frames, offsets.views, batch["cells"])}
    if layout.has_hiera:
        own = batch["cells"][:, :: layout.frame_stride]
        streams["hiera_cells"] = offsets.hiera_frames, offsets.hiera_images, own
    parts = {}
    for name, (start, stop, targets) in streams.items():
        tokens = bank[:, start:stop]
        values = _head(heads, name, tokens).reshape(targets.shape)
        seen = targets[..., 0]
        where = _where(values[..., 1:], targets[..., 1:], seen)
        frames = tokens.reshape(*targets.shape[:2], -1, tokens.shape[-1]).mean(2)
        stride = batch["poses"].shape[1] // targets.shape[1]
        looks = batch["poses"][:, ::stride, 2:4]
        encoder = name.removesuffix("_cells")
        heading = _gap(_head(heads, f"{encoder}_heading", frames), looks)
        heading = heading.sum(-1).mean()
        parts[name] = _seen_loss(values[..., 0], seen) + where + heading
        parts[f"{encoder}_where_error"] = where
        parts[f"{encoder}_heading_error"] = heading
    return parts


# ------------------------------------------------------------------- language model
def _film_rows(model: Vica, batch: Arrays):
    """Rows of the bank that a film's tokens are."""
    layout, num_frames = model.cfg.layout, batch["frames"].shape[1]
    offsets = layout.bank(
        frames=num_frames, hiera_frames=layout.num_hiera_frames(num_frames)
    )
    return layout.video_rows(offsets, num_frames)


def _prefill(model: Vica, objective: Objective, params: Params, seen: jax.Array):
    """Keys and values per layer, and every layer's output, of what all rows share.

    ``seen [B,N,D]`` is a film, or what stands in its place.
    """

    def run(module: Vica, seen: jax.Array):
        B = seen.shape[0]
        text = module.llm.embed(jnp.array([objective.before]))
        text = jnp.broadcast_to(text, (B, *text.shape[1:]))
        x = jnp.concatenate([text, seen], axis=1)
        positions = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
        return module.llm(x, positions)[1]

    kv, sown = model.apply(
        {"params": params}, seen, method=run, mutable=["intermediates"]
    )
    return kv, _outputs(sown)


def _outputs(sown: Any) -> list[jax.Array]:
    """What the language model's layers put out, of the collections of an ``apply``."""
    layers = sown["intermediates"]["llm"]["layers"]
    return [layers[str(i)]["output"][0] for i in range(len(layers))]


def _place_parts(model: Vica, heads: Params, film: jax.Array, batch: Arrays) -> Arrays:
    layout = model.cfg.layout
    at, frame, cell = film_places(layout, batch["frames"].shape[1])
    film = film[:, at]
    places = batch["places"]
    places = places.reshape(*places.shape[:2], -1, *places.shape[4:])
    targets = places[:, frame, cell]
    values = _head(heads, "places", film).reshape(targets.shape)
    where = _where(values[..., 1:], targets[..., 1:], targets[..., 0])
    poses = batch["poses"][:, frame]
    gaps = _gap(_head(heads, "poses", film), poses)
    seen = _seen_loss(values[..., 0], targets[..., 0])
    return {
        "places": seen + where,
        "poses": gaps.mean((0, 1)).sum(),
        "place_error": where,
        "pose_error": gaps[..., :2].mean(),
    }


def film_places(layout, num_frames: int):
    """Positions among a film's tokens that are no newline, with frame and cell."""
    parts, start = [], 0
    streams = [(layout.siglip_pooled_grid, num_frames, 1)]
    if layout.has_hiera:
        own = layout.num_hiera_frames(num_frames)
        streams.append((layout.hiera_pooled_grid, own, layout.frame_stride))
    for side, frames, stride in streams:
        f, r, c = np.meshgrid(
            np.arange(frames), np.arange(side), np.arange(side), indexing="ij"
        )
        at = start + (f * side + r) * (side + 1) + c
        parts.append((at.ravel(), (f * stride).ravel(), (r * side + c).ravel()))
        start += frames * side * (side + 1)
    at, frame, cell = (np.concatenate(column) for column in zip(*parts, strict=True))
    return at, frame, cell


def _question_parts(
    model: Vica, objective: Objective, params: Params, heads: Params, kv, batch: Arrays
) -> Arrays:
    """Losses at the questions' tokens, all groups together."""
    sums: dict[str, jax.Array] = {}
    for k in range(sum(name.startswith("questions/") for name in batch)):
        group = {
            name: batch[f"{name}/{k}"]
            for name in (
                *("questions", "answers", "marks", "mentioned"),
                *("pairs", "facts", "rights"),
            )
        }
        group["mentions"] = batch["mentions"]
        more = _group_sums(model, objective, params, heads, kv, group)
        sums = {name: sums.get(name, 0.0) + value for name, value in more.items()}

    def mean(name, count):
        return sums[name] / jnp.maximum(sums[count], 1)

    parts = {
        "answers": mean("nll", "answers"),
        "marks": mean("mark", "marks"),
        "count_error": mean("count", "there"),
        "where_error": mean("where", "alone"),
        "size_error": mean("size", "alone"),
        "when_error": mean("when", "there"),
        "number_error": mean("number", "numbers"),
        "angle_error": mean("angle", "angles"),
        "pairs": mean("pair", "pairs"),
        "options": mean("option", "options"),
    }
    parts["facts"] = parts["number_error"] + parts["angle_error"]
    parts["mentions"] = (
        parts["count_error"]
        + 2 * parts["where_error"]
        + parts["size_error"]
        + 2 * parts["when_error"]
    )
    return parts


def _group_sums(
    model: Vica, objective: Objective, params: Params, heads: Params, kv, group: Arrays
) -> Arrays:
    """Sums over rows ``[B,Q,T]`` that follow the films whose ``kv`` are given."""
    hidden, outputs = _behind_films(model, params, kv, group["questions"])
    at = objective.settings
    layers = {
        "mentions": at.mention_layer,
        "pairs": at.pair_layer,
        "facts": at.fact_layer,
        "options": at.option_layer,
    }
    said = {
        name: _head(heads, name, outputs[layer - 1]) for name, layer in layers.items()
    }
    kernel = _output_kernel(model, params)
    B, Q, T, _ = hidden.shape
    told = group["answers"], group["marks"]
    (nll, learned), (mark, marked) = (
        _told_nll(hidden, kernel, ids, most)
        for ids, most in zip(told, (ANSWER, MARKS), strict=True)
    )
    named = group["mentioned"]
    which = jnp.maximum(named, 0).reshape(B, Q * T, 1)
    asked = jnp.take_along_axis(group["mentions"], which, axis=1)
    asked = asked.reshape(B, Q, T, MENTION)
    gaps = _gap(said["mentions"], asked)
    known, misses = _known_gaps(said["facts"], group["facts"])
    apart, misplaced = _known_gaps(said["pairs"], group["pairs"])
    judged = jnp.isfinite(group["rights"])
    rights = jnp.where(judged, group["rights"], 0.0)
    verdicts = said["options"][..., 0]
    wrong = (jnp.logaddexp(0.0, verdicts) - verdicts * rights) * judged
    there = (named >= 0) * asked[..., 0]
    alone = (named >= 0) * asked[..., 2]
    tokens = learned.sum(-1)
    nll = nll.sum(-1) / jnp.maximum(tokens, 1)  # answers count alike
    return {
        "nll": nll.sum(),
        "mark": mark.sum(),
        "marks": marked.sum(),
        "answers": (tokens > 0).astype(jnp.float32).sum(),
        "there": there.sum(),
        "alone": alone.sum(),
        "count": (gaps[..., 1] * there).sum(),
        "where": (gaps[..., 3:5].sum(-1) * alone).sum(),
        "size": (gaps[..., 5] * alone).sum(),
        "when": (gaps[..., 6] * there).sum(),
        "numbers": known[..., 0].sum(),
        "number": misses[..., 0].sum(),
        "angles": known[..., 1].sum(),
        "angle": misses[..., 1:].sum(),
        "pairs": apart[..., 0].sum(),
        "pair": misplaced.sum(),
        "options": judged.sum(),
        "option": wrong.sum(),
    }


def _told_nll(
    hidden: jax.Array, kernel: jax.Array, ids: jax.Array, most: int
) -> tuple[jax.Array, jax.Array]:
    """Of each row's first ``most`` labels in ``ids [B,Q,T]`` (-1: none) the negative
    log-likelihoods, and which are there; no logits of the rest."""
    B, Q, _, D = hidden.shape
    at = jnp.argsort(ids < 0, axis=-1, stable=True)[..., :most]
    targets = jnp.take_along_axis(ids, at, axis=2)
    hidden = jnp.take_along_axis(hidden, at[..., None], axis=2)
    flat = hidden.reshape(B * Q, -1, D), targets.reshape(B * Q, -1)
    nll = cross_entropy(flat[0], kernel, jnp.maximum(flat[1], 0))
    learned = (targets >= 0).astype(jnp.float32)
    return nll.reshape(targets.shape) * learned, learned


def _known_gaps(values: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which targets are no NaN, and the gaps to those."""
    known = jnp.isfinite(targets)
    return known, _gap(values, jnp.where(known, targets, 0.0)) * known
