"""Sweeps: the grid, what of it can run, what is summed up; no model is run."""

import contextlib
import functools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vica_jax.data.tokenizer import Tokenizer, load_tokenizer
from vica_jax.decode.assistant import Assistant
from vica_jax.decode.measure import OutOfMemoryError
from vica_jax.eval import runner, sweep, sweep_figure, sweep_table
from vica_jax.eval.answers import Answer, collect_answers
from vica_jax.eval.frames import FrameSelection
from vica_jax.eval.question import Benchmark, Kind, Question
from vica_jax.eval.results import Results, summarise
from vica_jax.eval.settings import RunSettings
from vica_jax.eval.sweep_grid import (
    TOKEN_RATIOS,
    Point,
    Ratio,
    SweepError,
    lay_out,
    make_grid,
    parse_num_frames,
    parse_times,
    parse_token_ratios,
)
from vica_jax.eval.sweep_table import Sweep, SweepRow
from vica_jax.eval.timing import Timing, summarise_timing
from vica_jax.layout import LayoutError
from vica_jax.models.variants import VARIANTS

RATIOS = st.tuples(*[st.integers(1, 10**6)] * 3)
GOLDENS = Path(__file__).parents[1] / "goldens"
KINDS: tuple[tuple[Kind, str], ...] = (
    ("choice", "route_planning"),
    ("number", "object_counting"),
)


def published(name: str) -> Assistant:
    """A published model's sizes; of its weights the one whose width counts."""
    cfg = VARIANTS[name]
    width = cfg.hiera_out_width if cfg.hiera else 1
    projector = {"fc1": {"kernel": np.zeros((width, 1), np.float32)}}
    return Assistant(cfg, {"hiera_projector": projector}, tokenizer())


@functools.cache
def tokenizer() -> Tokenizer:
    return load_tokenizer(GOLDENS / "tiny-vica2" / "checkpoint")


# ------------------------------------------------------------------------------- grids
@given(
    st.lists(st.none() | RATIOS, min_size=1, max_size=4, unique=True),
    st.lists(st.integers(1, 999), min_size=1, max_size=4, unique=True),
    st.lists(st.booleans(), min_size=1, max_size=2, unique=True),
)
def test_a_grid_has_every_combination_once(ratios, frames, times):
    points = make_grid(ratios, frames, times)
    assert len(points) == len(ratios) * len(frames) * len(times)
    assert len({point.name for point in points}) == len(points)
    assert points[0] == Point(
        num_frames=frames[0], token_ratio=ratios[0], time_instruction=times[0]
    )
    assert all("/" not in point.name and " " not in point.name for point in points)


def test_names_of_rows():
    points = make_grid([None, (32, 4, 2)], [64], [False, True])
    assert [point.name for point in points] == [
        "frames-64_time-off",
        "frames-64_time-on",
        "frames-64_ratio-32-4-2_time-off",
        "frames-64_ratio-32-4-2_time-on",
    ]


@given(st.lists(st.none() | RATIOS, min_size=1, max_size=5, unique=True))
def test_token_ratios_as_they_are_written(ratios: list[Ratio | None]):
    text = " ; ".join("own" if r is None else ",".join(map(str, r)) for r in ratios)
    assert parse_token_ratios(text) == tuple(ratios)


def test_named_token_ratios():
    assert parse_token_ratios("paper") == ((32, 4, 2),)
    assert parse_token_ratios("own;around_paper;1,1,1") == (
        None,
        *TOKEN_RATIOS["around_paper"],
        (1, 1, 1),
    )
    paper = np.array(TOKEN_RATIOS["paper"][0])
    changed = [int((paper != ratio).sum()) for ratio in TOKEN_RATIOS["around_paper"]]
    assert changed == [0, 1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize("text", ["", "32,4", "32,4,0", "32,4,x", "32,4,2;", "papers"])
def test_token_ratios_that_are_none(text):
    with pytest.raises(SweepError, match="own, paper, around_paper"):
        parse_token_ratios(text)


def test_lists_of_frames_and_times():
    assert parse_num_frames(["64", " 32"]) == (64, 32)
    assert parse_times(["on", "off"]) == (True, False)
    with pytest.raises(SweepError, match="64 is named twice"):
        parse_num_frames(["64", "64"])
    with pytest.raises(SweepError, match="on is named twice"):
        parse_times(["on", "on"])
    with pytest.raises(SweepError, match=r"\(32, 4, 2\) is named twice"):
        parse_token_ratios("paper;own;32,4,2")
    with pytest.raises(SweepError, match="own is named twice"):
        parse_token_ratios("own;own")
    for wrong in ([], ["0"], ["-1"], ["6.4"], ["many"]):
        with pytest.raises(SweepError, match="positive numbers"):
            parse_num_frames(wrong)
    for wrong in ([], ["true"], ["off", "maybe"]):
        with pytest.raises(SweepError, match="give off, on"):
            parse_times(wrong)


# ------------------------------------------------------------------------ what can run
def planned(name: str, *grid) -> dict[str, SweepRow]:
    rows = sweep.plan(published(name), make_grid(*grid))
    return {row.point.name: row for row in rows}


def test_published_sizes_past_the_context_length():
    rows = planned("vica2_7b", [None], [64, 32, 128], [False])
    tokens = {row.point.num_frames: row.tokens for row in rows.values()}
    assert tokens == {64: (13440, 8704), 32: (6720, 4352), 128: (26880, 17408)}
    last = rows["frames-128_time-off"]
    assert last.status == sweep_table.NOT_RUN and last.ratio == (64, 4, 2)
    assert "44,288 visual tokens" in (last.reason or "")
    assert "past the context length of 32,768" in (last.reason or "")
    assert {row.status for row in list(rows.values())[:2]} == {sweep_table.WAITING}
    rows = planned("vica_7b", [None], [64, 128], [False, True])
    assert {row.status for row in rows.values()} == {sweep_table.WAITING}
    assert rows["frames-128_time-on"].tokens == (26880, 0)


@pytest.mark.parametrize(
    ("ratio", "frames", "reason"),
    [
        ((32, 4, 2), 64, None),
        ((64, 4, 2), 64, None),  # 30,848 tokens
        ((32, 4, 1), 64, "47,232 visual tokens"),
        ((32, 3, 4), 64, "stage 3 is 448 wide, but the projector .* takes 896"),
        ((64, 4, 2), 32, "N_hiera = 64 does not divide 32 frames"),
        ((24, 4, 2), 64, "N_hiera = 24 does not divide 64 frames"),
        ((32, 5, 2), 64, r"output_stage must lie in 1\.\.4"),
    ],
)
def test_why_a_ratio_is_not_run(ratio, frames, reason):
    (row,) = planned("vica2_7b", [ratio], [frames], [False]).values()
    if reason is None:
        assert (row.status, row.reason) == (sweep_table.WAITING, None)
        assert row.ratio == ratio
        return
    assert row.status == sweep_table.NOT_RUN and "\n" not in (row.reason or "")
    assert re.search(reason, row.reason or ""), row.reason
    assert (row.tokens is None) == ("divide" in reason or "lie in" in reason)


def test_equal_settings_are_run_once():
    rows = planned("vica2_7b", [None, (32, 4, 2)], [64, 32], [False])
    again = rows["frames-64_ratio-32-4-2_time-off"]
    assert again.reason == "the same settings as frames-64_time-off"
    assert rows["frames-32_ratio-32-4-2_time-off"].status == sweep_table.WAITING


def test_ratios_without_hiera_are_an_error():
    with pytest.raises(SweepError, match="no Hiera stream: leave --token_ratios out"):
        planned("vica_7b", [None, (32, 4, 2)], [64], [False])


@given(RATIOS, st.integers(1, 300))
def test_layouts_of_rows(ratio, frames):
    """Laid out as ``with_token_ratio`` does, whether it fits or not."""
    layout = VARIANTS["vica2_7b"].layout
    point = Point(num_frames=frames, token_ratio=ratio)
    try:
        found = lay_out(point, layout)
    except LayoutError:
        assert frames % ratio[0] or ratio[1] > 4
        return
    assert found.num_hiera_frames(frames) == ratio[0]
    assert found.context_length == layout.context_length
    try:
        found.check_video(frames)
    except LayoutError:
        assert found.video_tokens(frames) > layout.context_length
    else:
        assert found == layout.with_token_ratio(*ratio, num_frames=frames)


def test_settings_of_a_row():
    base = RunSettings(frames=FrameSelection(kind="maxinfo", num_frames=128))
    point = Point(num_frames=32, token_ratio=(8, 4, 2), time_instruction=True)
    chosen = sweep.row_settings(base, point)
    assert chosen.frames == FrameSelection(kind="maxinfo", num_frames=32)
    assert chosen.answers.num_frames == 32 and chosen.answers.time_instruction
    assert chosen.answers.token_ratio == (8, 4, 2)
    assert replace(chosen, frames=base.frames, answers=base.answers) == base


# ------------------------------------------------------------------------------ timing
def line(video: str, ask: float, questions: int = 2, **rest: float) -> str:
    row = {"video": video, "questions": questions, "encode": 1.0, "prefill": 2.0}
    return json.dumps(row | {"ask": ask} | rest)


def test_timing_leaves_out_compilation_and_parts():
    questions = dict.fromkeys("abcdef", 2)
    lines = [
        json.dumps({"video": "f", "questions": 2, "wait": 1.0}),  # it had no frames
        line("a", 97.0, wait=5.0),  # compiles
        line("b", 3.0, wait=0.5),
        line("c", 5.0),
        line("d", 50.0, questions=1),  # the rest of it was answered before
        line("b", 40.0),  # asked again
        '{"video": "e", "que',
    ]
    found = summarise_timing(lines, questions)
    assert found == Timing(
        videos=2,
        per_video=7.0,
        per_question=3.5,
        steps={"encode": 1.0, "prefill": 2.0, "ask": 4.0, "wait": 0.5},
        left_out=5,
    )


def test_timing_of_one_video_and_of_none():
    found = summarise_timing([line("a", 7.0)], {"a": 2})
    assert found is not None and found.with_compilation
    assert (found.videos, found.per_video, found.per_question) == (1, 10.0, 5.0)
    assert summarise_timing([line("a", 7.0)], {"a": 3}) is None
    assert summarise_timing([], {"a": 1}) is None


# ------------------------------------------------------------------------- summing up
def make_benchmark(videos: int = 4) -> Benchmark:
    """One choice and one number for each video, truths A and 4."""
    questions = []
    for n in range(videos):
        for kind, name in KINDS:
            options = ["A. left", "B. right"] if kind == "choice" else None
            truth = "A" if kind == "choice" else "4"
            video = f"scannet/scene{n:04}_00.mp4"
            doc = {
                "id": str(len(questions)),
                "question_type": name,
                "question": "?",
                "options": options,
                "ground_truth": truth,
            }
            questions.append(
                Question(
                    id=doc["id"],
                    question_type=name,
                    kind=kind,
                    question="?",
                    options=tuple(options) if options else None,
                    video=video,
                    doc=doc,
                )
            )
    return Benchmark(
        name="vsibench",
        subset="full",
        questions=tuple(questions),
        refused=(),
        file="test.jsonl",
        revision="0" * 64,
    )


BENCHMARK = make_benchmark()


@functools.cache
def make_results(right: int, num_frames: int = 64) -> Results:
    """The first ``right`` questions are answered rightly, the last one not at all."""
    answers = [
        Answer(
            id=question.id,
            prediction=str(question.truth) if place < right else "no idea",
            problem=None,
            tokens=1,
            finish="eos",
            prompt_tokens=100 + place,
        )
        for place, question in enumerate(BENCHMARK.questions[:-1])
    ]
    last = Answer.from_json(
        {"id": BENCHMARK.questions[-1].id, "prediction": None, "problem": "no video"}
    )
    recipe = {"prompts": "official", "frames": {"num_frames": num_frames}}
    found = collect_answers([*answers, last])
    return summarise(BENCHMARK, found, recipe, resamples=100)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two rows that were run, one that was not, one that failed, one to come."""
    workdir = tmp_path_factory.mktemp("sweep")
    grid = make_grid([None], [64, 128, 32, 16], [False, True])[:-1]
    rows = sweep.plan(published("vica2_7b"), grid)
    found = Sweep(benchmark=BENCHMARK, rows=rows)
    found = found.replaced(
        4, replace(rows[4], status=sweep_table.FAILED, reason="out of | memory")
    )
    for place, right in ((0, 4), (1, 6), (6, 2)):
        folder = workdir / rows[place].point.name
        folder.mkdir()
        lines = [line(video, 2.0 + place) for video in BENCHMARK.videos]
        (folder / "timing.jsonl").write_text("\n".join(lines))
        found = found.finished(place, workdir, make_results(right))
    return found


def test_scores_and_differences(whole):
    facts = sweep_table.to_json(whole)
    assert facts["compared_with"] == "frames-64_time-off"
    statuses = [row["status"] for row in facts["rows"]]
    assert statuses == ["done", "done", *["not run"] * 2, "failed", "waiting", "done"]
    first, second = facts["rows"][0], facts["rows"][1]
    assert first["overall"]["score"] == 50.0 and first["difference"] is None
    assert (first["asked"], first["answered"]) == (8, 7)
    assert first["unanswered"] == {"no video": 1}
    assert first["prompt_tokens"] == 103
    assert second["overall"]["score"] == 75.0
    assert second["tasks"] == {"route_planning": 75.0, "object_counting": 75.0}
    assert second["difference"]["score"] == 25.0
    low, high = second["difference"]["interval"]
    assert 0 <= low <= 25 <= high <= 75
    assert (second["difference"]["wins"], second["difference"]["losses"]) == (2, 0)
    assert facts["recipe"] == {"prompts": "official", "frames": {"num_frames": 64}}
    assert facts["timing"]["frames-64_time-off"]["per_video"] == 5.0
    assert facts["timing"]["frames-64_time-on"]["videos"] == 3


def test_timing_stands_apart(whole):
    slower = replace(
        whole,
        rows=tuple(
            replace(row, timing=replace(row.timing, per_video=9.0))
            if row.timing
            else row
            for row in whole.rows
        ),
    )
    one, other = sweep_table.to_json(whole), sweep_table.to_json(slower)
    assert one.pop("timing") != other.pop("timing") and one == other


def test_settings_that_differ_are_not_shared(whole):
    changed = replace(whole.rows[1], results=make_results(6, num_frames=32))
    assert sweep_table.shared_recipe(whole.replaced(1, changed)) == {
        "prompts": "official"
    }


def test_what_is_written(whole, tmp_path):
    sweep_table.write_sweep(tmp_path, whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(sweep_table.FILES)
    text = (tmp_path / "sweep.md").read_text()
    assert "7 rows: 3 done, 2 not run, 1 failed, 1 waiting." in text
    assert "| 22,144 | 103 | **50.00** |" in text
    assert "| **75.00** |" in text and "| +25.00 |" in text and "| 7/8 |" in text
    assert "past the context length of 32,768" in text and "out of \\| memory" in text
    assert "- frames-64_time-on: 1: no video" in text
    assert "less that of frames-64_time-off" in text
    assert "The first video of a row is left out" in text
    rows = [row for row in text.splitlines() if row.startswith("| ")]
    assert all(row.count("|") - row.count("\\|") in (4, 16) for row in rows)
    read = json.loads((tmp_path / "sweep.json").read_text())
    assert read == json.loads(json.dumps(sweep_table.to_json(whole)))
    lines = sweep_table.sweep_lines(whole)
    assert len(lines) == 8 and "failed: out of | memory" in lines[5]


def test_a_sweep_without_any_row(tmp_path):
    rows = sweep.plan(published("vica2_7b"), make_grid([None], [128], [False]))
    nothing = Sweep(benchmark=BENCHMARK, rows=rows)
    sweep_table.write_sweep(tmp_path, nothing)
    assert json.loads((tmp_path / "sweep.json").read_text())["compared_with"] is None
    text = (tmp_path / "sweep.md").read_text()
    assert "1 row: 1 not run" in text and "sweep.png" not in text


# ------------------------------------------------------------------------------ figure
def test_figure_has_a_mark_for_each_row_that_was_run(whole):
    figure = sweep_figure.make_figure(whole)
    marks = sweep_figure.find_marks(whole)
    assert [mark.number for mark in marks] == [1, 2, 7]
    assert len({mark.colour for mark in marks}) == 2
    for axes, xs in zip(
        figure.axes, ([22144, 22144, 5536], [5.0, 6.0, 11.0]), strict=True
    ):
        drawn = [one for one in axes.lines if one.get_marker() in ("o", "^")]
        found = {tuple(np.asarray(one.get_xydata()).ravel().tolist()) for one in drawn}
        assert found == set(zip(xs, [50.0, 75.0, 25.0], strict=True))
        faces = {one.get_marker(): one.get_markerfacecolor() for one in drawn}
        assert faces["^"] == "white" != faces["o"]
        assert sorted(text.get_text() for text in axes.texts) == ["1", "2", "7"]
    listed = "\n".join(sweep_figure.list_rows(whole))
    assert "past the context length" in listed and "failed: out of" in listed
    assert listed in figure.texts[-1].get_text()


def test_figure_is_the_same_and_grows_with_its_list(whole):
    one, again = sweep_figure.draw_sweep(whole), sweep_figure.draw_sweep(whole)
    assert one == again and one.startswith(b"\x89PNG")
    more = replace(whole, rows=(*whole.rows, *whole.rows[2:4]))
    assert _height(sweep_figure.draw_sweep(more)) > _height(one)


def _height(png: bytes) -> int:
    return int.from_bytes(png[20:24])


@settings(max_examples=8)
@given(st.lists(st.integers(0, 8), min_size=2, max_size=9))
def test_numbers_of_marks_do_not_overlap(rights):
    rows = []
    for n, right in enumerate(rights):
        point = Point(num_frames=64 + n // 2, time_instruction=bool(n % 2))
        tokens = (210 * (64 + 12 * (n // 2)), 0)
        rows.append(SweepRow(point=point, tokens=tokens, results=make_results(right)))
    figure = sweep_figure.make_figure(Sweep(benchmark=BENCHMARK, rows=tuple(rows)))
    axes = figure.axes[0]
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    boxes = [box.shrunk(0.8, 0.6) for box in boxes]
    assert len(boxes) == len(rights)
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:place])


# ----------------------------------------------------------------------------- running
@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs that leave a score of their frames; 32 frames have no memory."""
    ran: list[str] = []

    def run(assistant, benchmark, data, workdir: Path, settings, watch):
        ran.append(workdir.name)
        if settings.frames.num_frames == 32:
            raise OutOfMemoryError(f"{workdir}: out of device memory: try less")
        workdir.mkdir(parents=True, exist_ok=True)

    def write_report(workdir: Path):
        return make_results(len(ran))

    monkeypatch.setattr(sweep, "run", run)
    monkeypatch.setattr(sweep, "write_report", write_report)
    return ran


@contextlib.contextmanager
def nobody(row: SweepRow) -> Iterator[runner.Watch]:
    class Nobody:
        def begin(self, benchmark, done, asked): ...

        def recorded(self, questions, records): ...

    yield Nobody()


def sweep_fake(tmp_path: Path, *grid, **changes) -> Sweep:
    return sweep.run_sweep(
        published("vica2_7b"),
        BENCHMARK,
        tmp_path,
        tmp_path / "run",
        RunSettings(**changes),
        make_grid(*grid),
        watch=nobody,
    )


def test_a_row_that_fails_is_reported_and_the_next_is_run(fake, tmp_path):
    found = sweep_fake(tmp_path, [None], [32, 64, 128, 16], [False])
    statuses = [row.status for row in found.rows]
    assert statuses == ["failed", "done", "not run", "done"]
    assert fake == ["frames-32_time-off", "frames-64_time-off", "frames-16_time-off"]
    reason = found.rows[0].reason or ""
    assert reason == "frames-32_time-off: out of device memory: try less"
    facts = json.loads((tmp_path / "run" / "sweep.json").read_text())
    assert facts["compared_with"] == "frames-64_time-off"
    assert facts["rows"][3]["difference"]["score"] == 12.5
    assert str(tmp_path) not in (tmp_path / "run" / "sweep.json").read_text()


def test_shards_are_summed_up_at_the_end(fake, tmp_path):
    """What the first rows lacked when they ended, other processes have added."""
    found = sweep_fake(tmp_path, [None], [64, 16], [False], shard=(1, 2))
    scores = [row.results.overall.score for row in found.rows if row.results]
    assert len(fake) == 2 and scores == [25.0, 25.0]
    assert found.rows[1].difference is not None
    assert found.rows[1].difference.difference == 0
