"""A benchmark at many settings: one model, one ordinary run for each row of a grid.

    points = make_grid([None], [64, 32, 128], [False, True])
    run_sweep(assistant, benchmark, data, workdir, settings, points, watch=...)

Each row is a run in ``workdir/<row's name>`` with its own report, so that a sweep that
was stopped goes on where it was. Rows that cannot be (past the context length, a ratio
that the frames or the checkpoint do not go with) are reported and not run; a row that
fails is reported, and the next one is run.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from vica_jax.decode.assistant import Assistant
from vica_jax.decode.settings import AnswerSettings
from vica_jax.errors import InputError
from vica_jax.eval.items import plain_text
from vica_jax.eval.question import Benchmark
from vica_jax.eval.report import write_report
from vica_jax.eval.runner import Watch, run
from vica_jax.eval.settings import RunSettings
from vica_jax.eval.sweep_grid import Point, SweepError, lay_out
from vica_jax.eval.sweep_table import (
    DONE,
    FAILED,
    NOT_RUN,
    WAITING,
    Sweep,
    SweepRow,
    write_sweep,
)
from vica_jax.layout import LayoutError

Key = tuple[int, ...]


def run_sweep(
    assistant: Assistant,
    benchmark: Benchmark,
    data: Path,
    workdir: Path,
    settings: RunSettings,
    points: Sequence[Point],
    *,
    watch: Callable[[SweepRow], AbstractContextManager[Watch]],
) -> Sweep:
    """Run every row that can be run; the files of ``sweep_table`` after each.

    ``settings`` are those of all rows but for what a ``Point`` says. ``watch`` gives
    for a row who looks on. The first row that is run is what others are compared with.

    Raises:
      SweepError: token ratios for a model that has no Hiera.
      OSError: a file cannot be written.
    """
    sweep = Sweep(benchmark=benchmark, rows=plan(assistant, points))
    write_sweep(workdir, sweep)
    for place, row in enumerate(sweep.rows):
        if row.status != WAITING:
            continue
        folder = workdir / row.point.name
        chosen = row_settings(settings, row.point)
        try:
            with watch(row) as looking:
                run(assistant, benchmark, data, folder, chosen, looking)
            results = write_report(folder)
        except InputError as error:
            reason = plain_text(str(error).replace(f"{workdir}/", ""), "")
            sweep = sweep.replaced(place, replace(row, status=FAILED, reason=reason))
        else:
            sweep = sweep.finished(place, workdir, results)
        write_sweep(workdir, sweep)
    if settings.shard[1] > 1:  # others may have added answers to rows done here
        sweep = _read_again(workdir, sweep)
        write_sweep(workdir, sweep)
    return sweep


def _read_again(workdir: Path, sweep: Sweep) -> Sweep:
    """Every row that was run, summed up anew from its folder."""
    rows = tuple(
        replace(row, results=None) if row.status == DONE else row for row in sweep.rows
    )
    sweep = replace(sweep, rows=rows)
    for place, row in enumerate(sweep.rows):
        if row.status == DONE:
            results = write_report(workdir / row.point.name)
            sweep = sweep.finished(place, workdir, results)
    return sweep


def row_settings(settings: RunSettings, point: Point) -> RunSettings:
    """The run of one row."""
    answers = replace(
        settings.answers,
        num_frames=point.num_frames,
        token_ratio=point.token_ratio,
        time_instruction=point.time_instruction,
    )
    frames = replace(settings.frames, num_frames=point.num_frames)
    return replace(settings, answers=answers, frames=frames)


# ------------------------------------------------------------------------ what can run
def plan(assistant: Assistant, points: Sequence[Point]) -> tuple[SweepRow, ...]:
    """The rows of a sweep before it begins: tokens, and why some are not run.

    Raises:
      SweepError: token ratios for a model that has no Hiera.
    """
    ratios = [point.token_ratio for point in points if point.token_ratio is not None]
    if ratios and not assistant.cfg.layout.has_hiera:
        raise SweepError(
            f"token ratio {ratios[0]}: this model has no Hiera stream: leave "
            "--token_ratios out; frames and time instruction can be swept"
        )
    return tuple(_plan(assistant, points))


def _plan(assistant: Assistant, points: Sequence[Point]) -> Iterator[SweepRow]:
    seen: dict[Key, Point] = {}
    for point in points:
        row = SweepRow(point=point)
        try:
            layout = lay_out(point, assistant.cfg.layout)
            frames = point.num_frames
            hiera = layout.hiera_video_tokens(frames)
            row = replace(row, tokens=(layout.siglip_video_tokens(frames), hiera))
            key: Key = (frames, point.time_instruction)
            if layout.has_hiera:
                number = layout.num_hiera_frames(frames)
                ratio = (number, layout.output_stage, layout.pool_stride)
                row = replace(row, ratio=ratio)
                # Two strides may give the same N_hiera, of other frames.
                key = (*key, *ratio, layout.frame_stride)
            layout.check_video(frames)
            assistant.model(
                AnswerSettings(num_frames=frames, token_ratio=point.token_ratio)
            )
        except LayoutError as error:
            yield replace(row, status=NOT_RUN, reason=str(error))
            continue
        if same := seen.get(key):
            reason = f"the same settings as {same.name}"
            yield replace(row, status=NOT_RUN, reason=reason)
            continue
        seen[key] = point
        yield row
