"""Parity of training with recorded runs of the PyTorch reference.

A golden folder holds ``checkpoint/`` (HF form), ``train_samples.json`` (records),
``train_case.npz`` (their media, token ids, labels, loss, gradients, five AdamW steps),
``train_grad_norms_per_param.json`` and ``optim_case.json`` (groups, schedule). Names,
sizes and the number of samples are read from the files.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from vica_jax.data.example import Example, collate_training
from vica_jax.data.media import Images, Media, Video
from vica_jax.data.record import input_ids, labels, make_example, modality
from vica_jax.data.settings import DataSettings, ShapeBuckets
from vica_jax.data.shapes import BatchShape
from vica_jax.data.tokenizer import Tokenizer
from vica_jax.data.video import VideoClip
from vica_jax.eval.comparison import Row, same
from vica_jax.eval.golden import (
    GoldenError,
    Record,
    check_golden_folder,
    read_record,
)
from vica_jax.models.config import VicaConfig
from vica_jax.models.stack import stack_layers
from vica_jax.models.vica import Vica
from vica_jax.sharding import make_mesh
from vica_jax.train.loss import batch_nll
from vica_jax.train.optimizer import decays, make_optimizer, make_schedule
from vica_jax.train.partition import leaves, merge, split
from vica_jax.train.settings import OptimizerSettings
from vica_jax.train.state import TrainState, abstract_state, make_plan, shardings_of
from vica_jax.train.step import make_gradients, make_train_step
from vica_jax.typing import Batch, Params

IGNORED = -100
LOSS, GRADIENT, GRADIENT_FLOOR, STEP, PARAMETER, RATE = (
    1e-4,  # relative
    1e-3,  # relative, past an absolute floor of
    1e-6,
    1e-3,  # relative: losses and gradient norms over steps
    1e-4,  # absolute
    1e-4,  # relative: learning rates
)
FILES = ("train_case.npz", "train_samples.json")
ALIASES = {  # names of two recorded parameters that are no state-dict keys
    "lm_norm": "model.norm.weight",
    "vision_fc1_bias_l0": (
        "model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias"
    ),
}
GROUPS = {  # of recorded gradient norms: which state-dict keys they sum up
    "image_newline": r"model\.image_newline",
    "embed_tokens": r"model\.embed_tokens\..*",
    "lm_layers": r"model\.layers\..*",
    "lm_norm": r"model\.norm\..*",
    "vision_tower": r"model\.vision_tower\..*",
    "mm_projector": r"model\.mm_projector\..*",
    "sam_tower": r"model\.sam_tower\..*",
    "sam_projector": r"model\.sam_projector\..*",
    "lm_head": r"lm_head\..*",
}

ToHf = Callable[[Params], dict[str, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Model:
    """The model of a golden folder in float32, and its parameters' HF names.

    ``params`` hold one array per layer; ``to_hf`` gives HF tensors of such a tree or of
    a part of it, ``names`` the native path of every HF name.
    """

    cfg: VicaConfig
    params: Params
    tokenizer: Tokenizer
    to_hf: ToHf
    names: Mapping[str, str]
    tables: Mapping[str, str]  # stage name -> table of patterns


def verify_training(
    model: Model,
    folder: str | Path,
    progress: Callable[[str], None] = lambda what: None,
) -> tuple[list[Row], list[str]]:
    """Compare everything that a golden folder recorded of training.

    Returns the rows and notes on what was recorded but not compared.

    Raises:
      GoldenError: a file is missing or lacks a key.
    """
    check_golden_folder(folder, FILES)
    folder = Path(folder)
    record = read_record(folder / "train_case.npz")
    records = json.loads((folder / "train_samples.json").read_text())
    rows: list[Row] = []
    case = Case(model, record, records)
    parts: list[tuple[str, Callable[[], Iterator[Row]]]] = [
        ("samples", case.samples),
        ("loss", case.loss),
        (
            "gradients",
            lambda: case.gradients(
                _optional(folder, "train_grad_norms_per_param.json")
            ),
        ),
        ("optimizer", lambda: case.optimizer(_optional(folder, "optim_case.json"))),
        ("steps", case.steps),
        ("mixed batches", case.mixed),
    ]
    try:
        for what, part in parts:
            progress(what)
            rows += part()
    except KeyError as error:
        raise GoldenError(f"{folder}: the key {error} is missing") from error
    left = sorted(record.keys() - record.used)
    notes = [f"recorded but not compared: {', '.join(left)}"] if left else []
    return rows, notes


def _optional(folder: Path, name: str) -> Any:
    path = folder / name
    return json.loads(path.read_text()) if path.is_file() else None


class Case:
    """The recorded samples as examples, and what is compared of them, part by part."""

    def __init__(self, model: Model, record: Record, records: Sequence[Any]):
        self.model, self.record, self.records = model, record, records
        names = {key.split(".")[0] for key in record if re.match(r"s\d+\.", key)}
        self.names = sorted(names, key=lambda name: int(name[1:]))
        self.examples = [
            self.example(name, entry)
            for name, entry in zip(self.names, records, strict=False)
        ]
        self.vica = Vica(model.cfg, jnp.float32, scan=True)
        self.params = stacked(model.params)

    # ------------------------------------------------------------- samples
    def example(self, name: str, entry: Mapping[str, Any]) -> Example:
        settings = DataSettings(
            mixture="recorded",
            num_frames=len(self.record.get(f"{name}.frames", np.zeros(64))),
        )
        return make_example(
            entry,
            tokenizer=self.model.tokenizer,
            layout=self.model.cfg.layout,
            settings=settings,
            read=lambda entry, settings: self.media(name, entry),
        )

    def media(self, name: str, entry: Mapping[str, Any]) -> Media | None:
        get = lambda key: self.record[f"{name}.{key}"]
        if modality(entry) == "text":
            return None
        if modality(entry) == "video":
            indices, rate = get("frame_idx").astype(np.int64), float(get("fps"))
            clip = VideoClip(
                indices=indices,
                times=indices / rate,
                total_frames=int(get("total_frames")),
                avg_fps=rate,
                frames=get("frames"),
                reader="array",
            )
            return Video(clip)
        if modality(entry) == "image":
            return Images((Image.fromarray(get("image")),))
        count = len(entry["image"])
        return Images(tuple(Image.fromarray(get(f"image{i}")) for i in range(count)))

    def samples(self) -> Iterator[Row]:
        record = self.record
        for name, example in zip(self.names, self.examples, strict=True):
            yield same(
                name, "input_ids", input_ids(example), record[f"{name}.input_ids"]
            )
            yield same(name, "labels", labels(example), record[f"{name}.labels"])
            if f"{name}.num_crops_or_frames" in record:
                count = sum(len(medium.siglip) for medium in example.media)
                recorded = record[f"{name}.num_crops_or_frames"]
                yield same(name, "num_crops_or_frames", count, recorded)
            if f"{name}.time_prompt" in record:
                prompt = str(record[f"{name}.time_prompt"])
                after = prompt.split("<image>", 1)[1]
                ids = self.model.tokenizer.encode(after, add_special_tokens=False)
                found = _contains(example.chunks[-1], ids)
                yield same(name, "time_prompt", found, True)
        kinds = [modality(entry) for entry in self.records[: len(self.names)]]
        if "batch.modalities" in record:
            ours = ["video" if kind == "video" else "image" for kind in kinds]
            yield same("batch", "modalities", ours, record["batch.modalities"].tolist())
        if "batch.image_sizes_wh_images_only" in record:
            sizes = [
                medium.image_wh
                for example in self.examples
                for medium in example.media
                if medium.kind != "video"
            ]
            recorded = record["batch.image_sizes_wh_images_only"]
            yield same("batch", "image_sizes", np.array(sizes), recorded)
        yield from self._padded("batch.input_ids", input_ids)
        yield from self._padded("batch.labels", labels)
        if "batch.attention_mask" in record:
            mask = record["batch.attention_mask"]
            for name, example, row in zip(self.names, self.examples, mask, strict=True):
                yield same(name, "prompt length", len(input_ids(example)), row.sum())
        if "batch.expanded_labels" in record:
            recorded = record["batch.expanded_labels"]
            ours = expanded_labels(self.batch(self.examples), recorded.shape[1])
            yield same("batch", "expanded_labels", ours, recorded[:, 1:])
        if "batch.expanded_attention_mask" in record:
            mask = record["batch.expanded_attention_mask"]
            lengths = self.batch(self.examples)["lengths"]
            yield same("batch", "lengths", lengths, mask.sum(1))

    def _padded(self, key: str, of: Callable[[Example], np.ndarray]) -> Iterator[Row]:
        if key in self.record:
            recorded = self.record[key]
            for name, example, row in zip(
                self.names, self.examples, recorded, strict=True
            ):
                ours = of(example)
                yield same(name, key, ours, row[: len(ours)])

    def batch(self, examples: Sequence[Example]) -> Batch:
        """A batch in the smallest shape that holds it."""
        layout = self.model.cfg.layout
        longest = (
            max(len(m.siglip) for e in examples for m in e.media)
            if any(e.media for e in examples)
            else 1
        )
        layout = replace(layout, num_frames=longest)
        exact = ShapeBuckets(
            lengths=(64, 128, 192, 256, 320, 384, 448, 512, 640, 768, 1024),
            targets=(32, 64, 96, 128, 256, 512),
            views=tuple(range(1, 33)),
            resampled=(256, 512),
            raw_side=32,
        )
        shape = BatchShape.of(examples, layout, exact)
        return collate_training(examples, layout, shape)

    # ---------------------------------------------------------------- loss
    def nll(self, examples: Sequence[Example]) -> tuple[np.ndarray, Batch]:
        batch = self.batch(examples)
        run = jax.jit(lambda params, batch: batch_nll(self.vica, params, batch))
        return np.asarray(run(self.params, batch)), batch

    def loss(self) -> Iterator[Row]:
        record = self.record
        nll, batch = self.nll(self.examples)
        used = batch["targets"] >= 0
        counts = used.sum(1)
        yield _relative("batch", "loss", nll.sum() / counts.sum(), record["loss"], LOSS)
        if "num_loss_tokens" in record:
            yield same("batch", "num_loss_tokens", counts, record["num_loss_tokens"])
        if "token_nll" in record:
            recorded = record["token_nll"]
            ours = np.zeros_like(recorded)
            for row in range(len(ours)):
                at = batch["target_positions"][row][used[row]]
                ours[row, at] = nll[row][used[row]]
            gap = np.abs(ours - recorded).max() / max(np.abs(recorded).max(), 1)
            yield Row("batch", "token_nll", float(gap), LOSS)
        for row, name in enumerate(self.names):
            if f"{name}.loss" in record:
                own = nll[row].sum() / counts[row]
                yield _relative(name, "loss", own, record[f"{name}.loss"], LOSS)
            if f"{name}.length" in record:
                length = batch["lengths"][row]
                yield same(name, "length", int(length), record[f"{name}.length"])
            if f"{name}.logits_pos" in record:
                at = batch["target_positions"][row][used[row]]
                yield same(name, "supervised", at, record[f"{name}.logits_pos"])
                recorded = record[f"{name}.logits_at_pos"]
                logits = self._logits(batch, row)[: len(recorded)]
                yield Row(name, "logits", float(np.abs(logits - recorded).max()), 1e-3)

    def _logits(self, batch: Batch, row: int) -> np.ndarray:
        if not hasattr(self, "_all_logits"):

            def run(params, batch):
                return self.vica.apply({"params": params}, batch, method=_target_logits)

            self._all_logits = np.asarray(jax.jit(run)(self.params, batch))
        return self._all_logits[row]

    # ----------------------------------------------------------- gradients
    def gradients(self, norms: Mapping[str, float | None] | None) -> Iterator[Row]:
        batch = jax.tree.map(lambda x: x[None], self.batch(self.examples))
        run = jax.jit(make_gradients(self.vica))
        _, grads = run(self.params, {}, batch)
        ours = self.hf(grads)
        for name, recorded in (norms or {}).items():
            if recorded is None:
                zero = not np.any(ours[name]) if name in ours else True
                yield same("grad norm", name, zero, True)
                continue
            yield _gradient("grad norm", name, np.linalg.norm(ours[name]), recorded)
        for group, pattern in GROUPS.items():
            if f"gradnorm.{group}" in self.record:
                squares = [
                    np.square(g.astype(np.float64)).sum()
                    for name, g in ours.items()
                    if re.fullmatch(pattern, name)
                ]
                norm, recorded = np.sqrt(sum(squares)), self.record[f"gradnorm.{group}"]
                yield _gradient("grad norm", group, norm, recorded)
        for key in sorted(self.record):
            if key.startswith("grad."):
                name = key.removeprefix("grad.")
                yield _tensor("gradient", name, ours[name], self.record[key])
            elif key.startswith("grad_rows.") and key != "grad_rows.ids":
                name, ids = key.removeprefix("grad_rows."), self.record["grad_rows.ids"]
                yield _tensor("gradient", name, ours[name][ids], self.record[key])
                rest = np.delete(ours[name], ids, axis=0)
                yield same(
                    "gradient", f"{name} (other rows 0)", bool(rest.any()), False
                )

    # ----------------------------------------------------------- optimiser
    def optimizer(self, recorded: Mapping[str, Any] | None) -> Iterator[Row]:
        for stage, case in (recorded or {}).items():
            if not isinstance(case, Mapping) or "params" not in case:
                continue
            rates = {
                "base": case["learning_rate"],
                "siglip": case["mm_vision_tower_lr"],
            }
            plan = make_plan(
                self.model.cfg, self.model.tables[stage], rates, dtype=jnp.float32
            )
            for name, expected in case["params"].items():
                path = re.sub(r"/layers/\d+/", "/layers/block/", self.model.names[name])
                group = plan.groups.get(path)
                yield same(
                    stage, f"trainable {name}", bool(group), expected["trainable"]
                )
                if group and expected["trainable"]:
                    yield _relative(
                        stage, f"rate {name}", rates[group], expected["lr"], RATE
                    )
                    ours = decays(path)
                    yield same(
                        stage, f"decays {name}", ours, expected["in_decay_group"]
                    )
        if recorded and "schedule" in recorded:
            yield from _schedules(recorded["schedule"])

    # --------------------------------------------------------------- steps
    def steps(self) -> Iterator[Row]:
        for stage in ("stage1", "stage3"):
            if f"steps_{stage}.losses" in self.record:
                yield from self._run(stage)

    def _run(self, stage: str) -> Iterator[Row]:
        record, case = self.record, f"steps {stage}"
        losses = record[f"steps_{stage}.losses"]
        norms = record[f"steps_{stage}.grad_norms"]
        table = self.model.tables["stage1" if stage == "stage1" else "stage2_3"]
        rates = {"base": 1e-3, "siglip": 2e-4}
        settings = OptimizerSettings(rates=rates, warmup_ratio=0.1)
        plan = make_plan(self.model.cfg, table, rates, dtype=jnp.float32)
        schedule = make_schedule(settings, 10)
        optimizer = make_optimizer(settings, plan.groups, schedule)
        mesh = make_mesh({"fsdp": 1})
        params, frozen = split(self.params, plan.groups)
        params = jax.tree.map(jnp.array, params)  # a copy: the step donates it
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            rng=jax.random.key_data(jax.random.key(0)),
        )
        step = make_train_step(
            self.vica,
            optimizer,
            schedule,
            clip_norm=settings.clip_norm,
            rates=rates,
            shardings=shardings_of(abstract_state(plan, optimizer, mesh)),
        )
        batch = jax.tree.map(lambda x: x[None], self.batch(self.examples))
        ours = []
        after = None
        for number in range(len(losses)):
            if number == len(norms):
                after = jax.tree.map(np.asarray, state.params)
            state, metrics = step(state, frozen, batch)
            ours.append({key: float(value) for key, value in metrics.items()})
        for number, recorded in enumerate(losses):
            loss = ours[number]["loss"]
            yield _relative(case, f"loss {number}", loss, recorded, STEP)
        for number, recorded in enumerate(norms):
            norm = ours[number]["grad_norm"]
            yield _relative(case, f"gradient norm {number}", norm, recorded, STEP)
        tensors = self.hf(after) if after is not None else {}
        for key in sorted(record):
            if key.startswith(prefix := f"steps_{stage}.param."):
                name = key.removeprefix(prefix)
                value = tensors[ALIASES.get(name, name)]
                gap = np.abs(value - record[key]).max()
                yield Row(case, f"parameter {name}", float(gap), PARAMETER)

    # ------------------------------------------------------ text-only rows
    def mixed(self) -> Iterator[Row]:
        """A batch of an image and a text-only sample, and the text alone."""
        record = self.record
        if "mix.loss" not in record and "textonly.loss" not in record:
            return
        kinds = [modality(entry) for entry in self.records]
        text = self.example("text", self.records[kinds.index("text")])
        if "mix.loss" in record:
            yield same("mix", "input_ids", input_ids(text), record["mix.s1.input_ids"])
            yield same("mix", "labels", labels(text), record["mix.s1.labels"])
            if "mix.modalities" in record:
                yield same("mix", "rows", 2, len(record["mix.modalities"]))
            # The recording does not say which image sample stood beside the text.
            rows = []
            for name, kind, example in zip(
                self.names, kinds, self.examples, strict=False
            ):
                if kind == "image":
                    nll, batch = self.nll([example, text])
                    loss = nll.sum() / (batch["targets"] >= 0).sum()
                    row = _relative("mix", "loss", loss, record["mix.loss"], LOSS)
                    rows.append(replace(row, detail=f"with {name}"))
            yield min(rows, key=lambda row: row.error)
            if "mix.s1.logits" in record:
                yield from self._text_logits(text, record["mix.s1.logits"])
        if "textonly.loss" in record:
            nll, batch = self.nll([text])
            loss = nll.sum() / (batch["targets"] >= 0).sum()
            yield _relative("text only", "loss", loss, record["textonly.loss"], LOSS)

    def _text_logits(self, text: Example, recorded: np.ndarray) -> Iterator[Row]:
        batch = self.batch([text])
        run = jax.jit(lambda params, batch: self.vica.apply({"params": params}, batch))
        ours = np.asarray(run(self.params, batch))[0, : len(recorded)]
        yield Row("mix", "logits", float(np.abs(ours - recorded).max()), 1e-3)

    def hf(self, tree: Params) -> dict[str, np.ndarray]:
        """HF tensors of a stacked tree, or of a part of one."""
        return self.model.to_hf(unstacked(tree))


def _target_logits(module: Vica, batch: Batch) -> jax.Array:
    hidden = module.hidden_states(batch)
    at = batch["target_positions"]
    return module.logits(jnp.take_along_axis(hidden, at[..., None], axis=1))


def stacked(params: Params) -> dict[str, Any]:
    """One array per layer -> the stacks that training holds."""
    changed = {key: value for key, value in params.items()}
    for part in ("siglip", "llm"):
        changed[part] = {**params[part], "layers": stack_layers(params[part]["layers"])}
    return changed


def unstacked(tree: Params) -> dict[str, Any]:
    """The inverse of ``stacked``, for whatever leaves a tree has."""
    apart: dict[str, Any] = {}
    for path, leaf in leaves(tree):
        if "/layers/block/" not in path:
            apart[path] = leaf
            continue
        for i, layer in enumerate(np.asarray(leaf)):
            apart[path.replace("/block/", f"/{i}/")] = layer
    return merge(*({path: leaf} for path, leaf in apart.items()))


def expanded_labels(batch: Batch, length: int) -> np.ndarray:
    """Labels ``[B, length - 1]`` of what each position predicts, -100 where none is."""
    ours = np.full((len(batch["targets"]), length - 1), IGNORED, np.int64)
    for row, (at, targets) in enumerate(
        zip(batch["target_positions"], batch["targets"], strict=True)
    ):
        used = targets >= 0
        ours[row, at[used]] = targets[used]
    return ours


def _schedules(recorded: Mapping[str, Any]) -> Iterator[Row]:
    for key, values in recorded.items():
        if not key.startswith("lr_"):
            continue
        rate = float(key.removeprefix("lr_"))
        settings = OptimizerSettings(rates={"base": rate})
        factor = make_schedule(settings, len(values))
        ours = rate * np.asarray(jax.vmap(factor)(jnp.arange(len(values))), np.float64)
        expected = np.array(values)
        gap = np.abs(ours - expected) / np.where(expected == 0, rate, expected)
        yield Row("schedule", key, float(gap.max()), RATE)


def _contains(ids: Sequence[int], part: Sequence[int]) -> bool:
    # The last token may merge with what follows the prompt's end.
    part = list(part)[1:-1]
    return any(list(ids[i : i + len(part)]) == part for i in range(len(ids)))


def _relative(case: str, quantity: str, ours: Any, recorded: Any, limit: float) -> Row:
    ours, recorded = float(ours), float(recorded)
    gap = abs(ours - recorded)
    return Row(case, quantity, gap / abs(recorded) if recorded else gap, limit)


def _gradient(case: str, quantity: str, ours: Any, recorded: Any) -> Row:
    ours, recorded = float(ours), float(recorded)
    gap = max(abs(ours - recorded) - GRADIENT_FLOOR, 0.0)
    return Row(case, quantity, gap / max(abs(recorded), 1e-30), GRADIENT)


def _tensor(case: str, name: str, ours: np.ndarray, recorded: np.ndarray) -> Row:
    if ours.shape != recorded.shape:
        return Row(case, name, float("inf"), GRADIENT, f"shape {ours.shape}")
    gap = np.linalg.norm((ours - recorded).astype(np.float64)) - GRADIENT_FLOOR
    return Row(case, name, float(max(gap, 0.0) / np.linalg.norm(recorded)), GRADIENT)
