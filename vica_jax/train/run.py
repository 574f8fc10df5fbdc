"""A run put together: from settings and folders to the loop, and back out to files."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vica_jax.checkpoint import TrainingCheckpoints, fingerprint, read_manifest
from vica_jax.checkpoint.manifest import Manifest
from vica_jax.config import plain
from vica_jax.data.loader import Loader
from vica_jax.data.mixture import Mixture, read_mixture
from vica_jax.data.order import split_validation
from vica_jax.files import write_text
from vica_jax.models.config import VicaConfig
from vica_jax.train.distributed import synchronize
from vica_jax.train.export import export_native
from vica_jax.train.feed import feed, local_rows
from vica_jax.train.flops import peak_flops
from vica_jax.train.loop import Hooks, train
from vica_jax.train.metrics import Tracker
from vica_jax.train.resume import check_fresh, check_resumable
from vica_jax.train.sample_log import SampleLog
from vica_jax.train.settings import TrainSettings
from vica_jax.train.stage import (
    RunError,
    Stage,
    cached_hiera,
    make_flops,
    make_program,
    make_stage,
)
from vica_jax.train.state import (
    TrainState,
    init_state,
    load_leaves,
)
from vica_jax.train.step import make_eval_step

log = logging.getLogger(__name__)
CHECKPOINTS, EXPORT, CONFIG = "checkpoints", "export", "config.json"


@dataclass(frozen=True, kw_only=True)
class Exporters:
    """Writers of other forms, which this package does not know.

    ``hf(native, target)`` from a native checkpoint, ``adapter(checkpoints, step, cfg,
    target)`` from a saved step with LoRA.
    """

    hf: Callable[[Path, Path], Any]
    adapter: Callable[[Path, int, VicaConfig, Path], Any]


def run(
    settings: TrainSettings,
    base: Path,
    workdir: Path,
    exporters: Exporters,
) -> Path:
    """Train a stage in ``workdir``, resuming what is there; returns the export.

    ``base`` is the native checkpoint to start from. The last step ends as ``export/``
    (native), ``export-hf/`` where asked for, and ``export-adapter/`` with LoRA.

    Raises:
      InputError: settings, data, checkpoint or disk; one line.
    """
    manifest = read_manifest(base)
    manifest.check_float("training")
    stage = make_stage(settings, manifest.model_config)
    if settings.data.hiera_cache:
        stage = replace(stage, hiera_hash=cached_hiera(stage, base))
    first = jax.process_index() == 0
    if first:
        workdir.mkdir(parents=True, exist_ok=True)
    data = settings.data
    data.check_folders()
    mixture = read_mixture(data.mixture, seed=settings.seed, exclude=data.exclude)
    for name in mixture.excluded if first else ():
        log.info("%s: left out, data.exclude matches", name)
    chosen, held_out = split_validation(
        len(mixture), settings.data.validation_share, seed=settings.seed
    )
    validation = validation_samples(settings, mixture, held_out)
    per_epoch = -(-len(chosen) // settings.global_batch_size)
    total = per_epoch * settings.epochs
    if settings.max_steps:
        total = min(total, settings.max_steps)
    program = make_program(stage, total)
    checkpoints = TrainingCheckpoints(
        workdir / CHECKPOINTS,
        keep_last=settings.checkpoint.keep_last,
        keep_every=settings.checkpoint.keep_steps(total),
    )
    start = checkpoints.latest()
    made_of = {
        "base": os.path.abspath(base),
        "base_fingerprint": fingerprint(base),
        "config": plain(settings),
        "total_steps": total,
        "samples": len(chosen),
        "digest": mixture.digest,
    }
    record: Mapping[str, Any] = {"consumed": 0, "bad": 0, "truncated": 0}
    with checkpoints, jax.set_mesh(stage.mesh):
        if start is None:
            check_fresh(workdir / EXPORT)
            state = init_state(
                base, stage.plan, program.optimizer, stage.mesh, settings.seed
            )
        else:
            record = checkpoints.read_record(start)
            check_resumable(record, made_of, workdir)
            state = checkpoints.restore(start, program.state)
        frozen = load_leaves(base, stage.plan, stage.plan.frozen, stage.mesh)
        if first:
            write_config(workdir / CONFIG, settings)
            announce(stage, mixture, chosen, total, start)
        tracker = Tracker(
            workdir,
            total_steps=total,
            start_step=start or 0,
            tensorboard=settings.log.tensorboard,
            wandb=settings.log.wandb_project,
            progress=settings.log.progress,
            line_every=settings.log.line_every,
            peak_flops=settings.log.peak_tflops * 1e12
            or peak_flops(jax.devices()[0].device_kind),
            devices=stage.mesh.size,
            enabled=first,
            config=plain(settings),
        )
        loader = make_loader(stage, manifest, mixture, chosen, record["consumed"])
        samples = SampleLog(
            workdir,
            max_share=settings.data.max_bad_share,
            samples=len(chosen),
            **{key: record[key] for key in ("consumed", "bad", "truncated")},
        )

        def export(step: int) -> None:
            if first:
                folder = workdir / f"{EXPORT}-{step}"
                export_step(stage, checkpoints, step, base, folder, exporters, hf=True)

        every = settings.export_hf_every
        try:
            if start and every and start % every == 0:
                export(start)  # it may have been killed before this was whole
            state = train(
                settings,
                state,
                frozen,
                program.step,
                batches_of(stage, loader),
                checkpoints,
                tracker,
                samples,
                total_steps=total,
                consumed=record["consumed"],
                record=made_of,
                hooks=Hooks(
                    validate=make_validation(stage, manifest, *validation, frozen),
                    export=export,
                ),
            )
        finally:
            loader.close()
            tracker.close()
    target = workdir / EXPORT
    last = checkpoints.latest()
    if first and last is not None:
        hf = settings.export_hf or settings.export_hf_every > 0
        export_step(stage, checkpoints, last, base, target, exporters, hf=hf)
    synchronize("end")  # a process that ends ends the others after a while
    return target


def make_loader(
    stage: Stage,
    manifest: Manifest,
    mixture: Mixture,
    indices: np.ndarray,
    consumed: int,
    *,
    epochs: int | None = None,
    group: bool = True,
) -> Loader:
    """The loader of this process's rows."""
    settings = stage.settings
    data = settings.data if group else replace(settings.data, group_by_length=False)
    return Loader(
        mixture,
        indices,
        tokenizer_folder=manifest.tokenizer_folder,
        layout=stage.cfg.layout,
        settings=data,
        seed=settings.seed,
        global_batch_size=settings.global_batch_size,
        rows=local_rows(stage.mesh, stage.micro_batch, stage.accumulation),
        consumed=consumed,
        epochs=settings.epochs if epochs is None else epochs,
        hiera_hash=stage.hiera_hash,
    )


def batches_of(stage: Stage, loader: Any) -> Any:
    """A loader's batches on the mesh."""
    return feed(
        loader,
        layout=stage.cfg.layout,
        buckets=stage.settings.data.shapes,
        mesh=stage.mesh,
        accumulation=stage.accumulation,
        micro_batch=stage.micro_batch,
        flops_of=make_flops(stage),
    )


def validation_samples(
    settings: TrainSettings, mixture: Mixture, held_out: np.ndarray
) -> tuple[Mixture, np.ndarray]:
    """The mixture and the indices in it that the validation loss is taken over.

    Raises:
      RunError: a validation is asked for, and there is nothing for it.
    """
    if settings.data.validation:
        mixture = read_mixture(settings.data.validation, seed=settings.seed)
        held_out = np.arange(len(mixture))
    if settings.validate_every and not len(held_out):
        raise RunError(
            "validate_every is set and nothing is held out: give data.validation "
            "or data.validation_share, or set validate_every=0"
        )
    return mixture, held_out


def make_validation(
    stage: Stage, manifest: Manifest, mixture: Mixture, held_out: Any, frozen: Any
) -> Callable[[TrainState], dict[str, float]] | None:
    """``validate(state)``: the loss over the held-out samples; None without any."""
    if not len(held_out):
        return None
    step = make_eval_step(stage.model, stage.settings.lora)

    def validate(state: TrainState) -> dict[str, float]:
        loader = make_loader(
            stage, manifest, mixture, held_out, 0, epochs=1, group=False
        )
        total, count, bad = 0.0, 0, 0
        try:
            for number, batch in enumerate(batches_of(stage, loader)):
                limit = stage.settings.validation_batches
                if limit and number >= limit:
                    break
                summed, targets = step(state.params, frozen, batch.arrays)
                total, count = total + float(summed), count + int(targets)
                bad += batch.bad
        finally:
            loader.close()
        loss = total / count if count else float("nan")
        return {"loss": loss, "target_tokens": count, "bad": bad}

    return validate


def write_config(path: Path, settings: TrainSettings) -> None:
    """The run's settings as JSON, whole or not at all."""
    write_text(path, json.dumps(plain(settings), indent=1) + "\n")


def announce(
    stage: Stage, mixture: Mixture, chosen: Any, total: int, start: int | None
) -> None:
    """Say what is about to run."""
    count = sum(
        int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(stage.plan.trainable)
    )
    whole = count + sum(
        int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(stage.plan.frozen)
    )
    shape = ", ".join(f"{k}={v}" for k, v in stage.mesh.shape.items())
    log.info(
        "%s: %s of %s parameters train; %d of %d samples, %d steps of %d = %d x %d; "
        "mesh %s%s",
        stage.settings.name,
        f"{count:,}",
        f"{whole:,}",
        len(chosen),
        len(mixture),
        total,
        stage.settings.global_batch_size,
        stage.accumulation,
        stage.micro_batch,
        shape,
        f"; resumed at step {start}" if start else "",
    )


def export_step(
    stage: Stage,
    checkpoints: TrainingCheckpoints,
    step: int,
    base: Path,
    target: Path,
    exporters: Exporters,
    *,
    hf: bool,
) -> None:
    """A saved step as ``target``, ``target-hf`` and ``target-adapter``.

    What is there already of this step stays: an export appears only when it is whole.
    What is there of an earlier one, before ``max_steps`` was raised, is replaced.
    """
    if target.exists():
        made_of = read_manifest(target).provenance.get("step")
        if made_of != step:
            log.info("%s: was made of step %s, now of step %d", target, made_of, step)
            # The native one last: where it is gone, so are the others.
            for form in ("-hf", "-adapter", ""):
                remove(target.with_name(target.name + form))
    if not target.exists():
        export_native(checkpoints.folder, step, base, target)
    folder = target.with_name(f"{target.name}-hf")
    if hf and not folder.exists():
        exporters.hf(target, folder)
    folder = target.with_name(f"{target.name}-adapter")
    if stage.settings.lora is not None and not folder.exists():
        exporters.adapter(checkpoints.folder, step, stage.cfg, folder)


def remove(folder: Path) -> None:
    """Remove a folder that may be there; nobody sees it with some of its files."""
    aside = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.rename(aside)
        shutil.rmtree(aside)
