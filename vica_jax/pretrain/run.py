"""A run on generated rooms: from settings to a native checkpoint, resumable."""

import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vica_jax.checkpoint import CheckpointWriter, TrainingCheckpoints
from vica_jax.config import plain
from vica_jax.data.tokenizer import load_tokenizer
from vica_jax.files import write_text
from vica_jax.models.config import VicaConfig
from vica_jax.models.variants import VARIANTS
from vica_jax.models.vica import Vica, init_vica
from vica_jax.pretrain.loss import Objective, init_heads, objective_loss
from vica_jax.pretrain.optimizer import make_muon
from vica_jax.pretrain.rooms import (
    BEFORE,
    CATEGORIES,
    NAMES,
    Arrays,
    RoomShape,
    training_texts,
)
from vica_jax.pretrain.settings import Phase, PretrainSettings
from vica_jax.pretrain.stream import RoomStream
from vica_jax.pretrain.words import (
    END,
    TURN_END,
    name_ids,
    train_tokenizer,
    write_tokenizer,
)
from vica_jax.train.loop import check_finite
from vica_jax.train.metrics import Tracker
from vica_jax.train.optimizer import Schedule, clip_by_norm, make_schedule
from vica_jax.train.resume import check_same_settings
from vica_jax.train.settings import OptimizerSettings
from vica_jax.train.stage import RunError
from vica_jax.train.state import TrainState
from vica_jax.typing import Params

CHECKPOINTS, EXPORT, TOKENIZER = "checkpoints", "export", "tokenizer"
MADE_OF = "made_of.json"  # in the tokenizer's folder
# What may differ between a run and its resumption.
FREE = ("num_workers", "checkpoint", "log")


def run(
    settings: PretrainSettings, workdir: Path, cfg: VicaConfig | None = None
) -> Path:
    """Train in ``workdir``, resuming what is there; returns the native checkpoint.

    ``cfg`` is a model of other sizes than ``settings.variant``'s.

    Raises:
      InputError: settings, workdir or disk; one line.
    """
    if cfg is None:
        if settings.variant not in VARIANTS:
            raise RunError(
                f"variant: {settings.variant!r} is none of {', '.join(VARIANTS)}"
            )
        cfg = VARIANTS[settings.variant]
    check_sizes(settings, cfg)
    target = workdir / EXPORT
    checkpoints = TrainingCheckpoints(
        workdir / CHECKPOINTS,
        keep_last=settings.checkpoint.keep_last,
        keep_every=settings.checkpoint.keep_steps(settings.steps),
    )
    with checkpoints:
        start = checkpoints.latest() or 0
        if start:
            record = checkpoints.read_record(start)
            check_same_settings(record["config"], plain(settings), FREE, workdir)
        elif target.exists():
            raise RunError(
                f"{workdir}: {EXPORT}/ is there, but no checkpoint of the run that it "
                "came from: take another --workdir, or move it away to begin again"
            )
        else:
            make_tokenizer(settings, workdir / TOKENIZER)
        tokenizer = load_tokenizer(workdir / TOKENIZER)
        objective = Objective(
            before=tuple(tokenizer.encode(BEFORE, add_special_tokens=False)),
            num_categories=len(CATEGORIES),
            settings=settings.objective,
        )
        like = jax.eval_shape(lambda: initial_params(settings, cfg, objective))
        optimizer = make_muon(settings.optimizer, like, schedule_of(settings))

        def initial() -> TrainState:
            params = initial_params(settings, cfg, objective)
            return TrainState(
                step=jnp.zeros((), jnp.int32),
                params=params,
                opt_state=optimizer.init(params),
                rng=jax.random.key_data(jax.random.key(settings.seed)),
            )

        if start:
            state = checkpoints.restore(start, _placed(jax.eval_shape(initial)))
        else:
            state = jax.jit(initial)()
        state = _train(settings, cfg, objective, optimizer, state, checkpoints, workdir)
    if not target.exists():
        export(settings, cfg, state, tokenizer, workdir / TOKENIZER, target)
    return target


def check_sizes(settings: PretrainSettings, cfg: VicaConfig) -> None:
    """Raise RunError where settings ask for more than the model has."""
    for name in settings.objective.layers():
        layer = getattr(settings.objective, name)
        if layer > cfg.llm.depth:
            raise RunError(
                f"objective.{name}: {layer}, and the language model has "
                f"{cfg.llm.depth} layers"
            )
    if settings.tokenizer.vocab_size > cfg.llm.vocab_size:
        raise RunError(
            f"tokenizer.vocab_size: {settings.tokenizer.vocab_size}, and the model has "
            f"embeddings for {cfg.llm.vocab_size}"
        )


def make_tokenizer(settings: PretrainSettings, folder: Path) -> None:
    """Write the run's tokenizer, and beside it what it was made of.

    Raises:
      RunError: its vocabulary is too small for the names of categories.
    """
    made = settings.tokenizer
    told = json.dumps(plain(made))
    note = folder / MADE_OF
    if note.is_file() and note.read_text(encoding="utf-8") == told:
        return
    texts = training_texts(made.seed, made.rooms)
    names = [spelling for spellings in NAMES for spelling in spellings]
    tokenizer = train_tokenizer(texts, names, made.vocab_size)
    try:
        name_ids(tokenizer, NAMES)
    except ValueError as error:
        raise RunError(f"tokenizer.vocab_size: {made.vocab_size}: {error}") from None
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(tokenizer, folder)
    write_text(note, told)


def schedule_of(settings: PretrainSettings) -> Schedule:
    """The factor of both rates: the stages' warm-up and cosine, and the same again
    for captions."""
    ratio = settings.optimizer.warmup_ratio
    shape = OptimizerSettings(rates={}, warmup_ratio=ratio)
    border = min(settings.captions_from, settings.steps)
    before = make_schedule(shape, border)
    after = make_schedule(shape, settings.steps - border)

    def factor(step: jax.Array) -> jax.Array:
        again = settings.captions_rate * after(step - border)
        return jnp.where(step < border, before(step), again)

    return factor


def initial_params(
    settings: PretrainSettings, cfg: VicaConfig, objective: Objective
) -> Params:
    """Fresh parameters ``{"model", "heads"}``."""
    model, heads = jax.random.split(jax.random.key(settings.seed))
    return {
        "model": init_vica(cfg, model),
        "heads": init_heads(objective, cfg.llm.width, heads),
    }


def _placed(abstract: Any) -> Any:
    """Shapes with a sharding: all on the first device."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract
    )


def make_step(
    settings: PretrainSettings,
    cfg: VicaConfig,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    phase: Phase,
) -> Any:
    """The jitted ``step(state, batch) -> (state, metrics)``; state is donated."""
    model = Vica(cfg, jnp.float32, frame_chunk=2**20)

    def step(state: TrainState, batch: Any):
        def loss_of(params):
            return objective_loss(
                model,
                objective,
                params["model"],
                params["heads"],
                batch,
                phase=phase,
            )

        (loss, parts), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        grads, norm = clip_by_norm(grads, settings.optimizer.clip_norm)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        new = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            rng=state.rng,
        )
        return new, {"loss": loss, "grad_norm": norm, **parts}

    return jax.jit(step, donate_argnums=0)


def _train(
    settings: PretrainSettings,
    cfg: VicaConfig,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    checkpoints: TrainingCheckpoints,
    workdir: Path,
) -> TrainState:
    step = int(state.step)
    if step >= settings.steps:
        return state
    width, height = settings.film_wh
    groups = tuple((many, length) for many, _, length in settings.groups)
    shape = RoomShape(
        layout=cfg.layout,
        width=width,
        height=height,
        groups=groups,
        captions=settings.captions,
        records=settings.records,
        texts_from=settings.rooms_before(settings.captions_from),
    )
    save_every = settings.checkpoint.save_steps(settings.steps)
    tracker = Tracker(
        workdir,
        total_steps=settings.steps,
        start_step=step,
        tensorboard=settings.log.tensorboard,
        wandb=settings.log.wandb_project,
        progress=settings.log.progress,
        line_every=settings.log.line_every,
        config=plain(settings),
    )
    rooms = RoomStream(
        shape,
        workdir / TOKENIZER,
        settings.room_seed,
        settings.rooms_before(step),
        settings.num_workers,
    )
    rate, schedule = settings.optimizer.rate, schedule_of(settings)
    with tracker, rooms:
        programs: dict[Phase, Any] = {}
        last = time.perf_counter()
        while step < settings.steps:
            phase = settings.phase_of(step)
            compiles = phase not in programs
            if compiles:
                programs[phase] = make_step(settings, cfg, objective, optimizer, phase)
            listed = phase == "objects"
            size = settings.objects_batch_size if listed else settings.batch_size
            begun = time.perf_counter()
            made = [next(rooms) for _ in range(size)]
            wait = time.perf_counter() - begun
            batch = {name: np.stack([room[name] for room in made]) for name in made[0]}
            if not listed:
                batch = fewer_questions(batch, settings)
            state, metrics = programs[phase](state, batch)
            values = {name: float(x) for name, x in jax.device_get(metrics).items()}
            now = time.perf_counter()
            step += 1
            values |= {
                "learning_rate": rate * float(schedule(jnp.asarray(step - 1))),
                "examples": size,
                "rooms": settings.rooms_before(step),
                "step_seconds": now - last,
                "wait_seconds": wait,
            }
            last = now
            if compiles:
                tracker.event(step, "compile", phase=phase)
            tracker.log(step, values)
            check_finite(step, values, checkpoints)
            if step % save_every == 0 or step == settings.steps:
                checkpoints.save(step, state, {"config": plain(settings)})
                last = time.perf_counter()
    return state


def fewer_questions(batch: Arrays, settings: PretrainSettings) -> Arrays:
    """A batch with as many rows of questions as films get."""
    fewer = dict(batch)
    for name in batch:
        _, _, group = name.partition("/")
        if group:
            fewer[name] = batch[name][:, : settings.groups[int(group)][1]]
    return fewer


def export(
    settings: PretrainSettings,
    cfg: VicaConfig,
    state: TrainState,
    tokenizer: Any,
    folder: Path,
    target: Path,
) -> None:
    """The model without its heads as a native checkpoint in float32."""
    stop = tokenizer.encode(f"{TURN_END}{END}", add_special_tokens=False)
    params = jax.device_get(state.params["model"])
    with CheckpointWriter(target) as writer:
        writer.write_tree(params)
        writer.copy_tokenizer(folder)
        writer.finish(
            family="vica_qwen" if cfg.hiera else "llava_qwen",
            config=cfg,
            generation_config={"do_sample": False, "eos_token_id": stop},
            provenance={
                "trained": settings.name,
                "step": settings.steps,
                "config": plain(settings),
            },
        )
