"""A small model that has learned to see rooms, shown on unseen ones: `make demo`.

    python -m scripts.demo [--checkpoint=checkpoints/vica2-world] [--workdir=demo]
        [--seed=20261] [--rooms=20] [--room=0]

Compares outputs of a tiny checkpoint with those recorded from the PyTorch reference;
films rooms of a seed that was not trained on, converts the small ViCA2 from its HF form
to the native one, asks it about one of the rooms (room.mp4, room.png), and scores it on
all of them, and again with black frames, beside the best answers without a video. A low
score is only said.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from scripts import cli

if TYPE_CHECKING:
    from scripts.demo_room import Say

FLAGS = flags.FLAGS
ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "goldens" / "tiny-vica2"
CHECKPOINT = ROOT / "checkpoints" / "vica2-world"

flags.DEFINE_string("workdir", "demo", "folder for what the demo writes")
flags.DEFINE_string("checkpoint", str(CHECKPOINT), "HF folder of the model")
flags.DEFINE_integer("seed", 20261, "of the rooms; not one that was trained on", 0)
flags.DEFINE_integer("rooms", 20, "how many are filmed and scored", 1)
flags.DEFINE_integer("room", 0, "which of them is shown and asked about first", 0)

SHOWN = 13  # questions on the contact sheet


@contextmanager
def step(title: str) -> "Iterator[Say]":
    """Say what begins and how long it took; call what it gives to count."""
    begin = f"\r[ ] {title} ..."
    print(begin, end="", flush=True)

    def say(done: int, total: int) -> None:
        print(f"{begin} {done:,} of {total:,} ", end="", flush=True)

    start = time.perf_counter()
    yield say
    seconds = f"({time.perf_counter() - start:.1f} s)"
    print(f"\r[x] {title}  {seconds}{' ' * 16}")


def main() -> None:
    begin = time.perf_counter()
    workdir, source = Path(FLAGS.workdir), Path(FLAGS.checkpoint)
    if FLAGS.room >= FLAGS.rooms:
        cli.fail(f"--room={FLAGS.room}: rooms count from 0 to {FLAGS.rooms - 1}")
    if not source.is_dir():
        cli.fail(f"--checkpoint={source}: no such folder")
    workdir.mkdir(parents=True, exist_ok=True)
    with step("import jax and the model code"):
        from convert.load import load_assistant, to_native
        from scripts import demo_room
        from vica_jax.world.records import place_video
    world, native = workdir / "world", workdir / "vica2-world-native"
    score, black = workdir / "score", workdir / "black"
    tiny = workdir / "tiny-vica2-native"
    demo_room.clear(world, native, score, black, tiny)
    with step("compare a tiny checkpoint with outputs recorded from PyTorch") as say:
        to_native(GOLDEN / "checkpoint", tiny)
        demo_room.mark(tiny)
        rows = compare(load_assistant(tiny, dtype="float32"), say)
    print_rows(rows)
    title = f"film {FLAGS.rooms} rooms that were never trained on (seed {FLAGS.seed})"
    with step(title) as say:
        data = demo_room.make_world(world, FLAGS.seed, FLAGS.rooms, say)
    with step(f"convert {source} from the HF form to {native}"):
        to_native(source, native)
        demo_room.mark(native)
    with step("load it"):
        assistant = load_assistant(native)
    video, sheet = workdir / "room.mp4", workdir / "room.png"
    room = demo_room.read_room(world, FLAGS.room, assistant.cfg.layout.num_frames)
    place_video(room.video, video)
    benchmark = demo_room.read_questions(data)
    own = [q for q in benchmark.questions if Path(q.video).name == room.video.name]
    with step(f"open {video} once and ask {len(own)} questions"):
        told = demo_room.ask_room(assistant, video, demo_room.take_turns(own))
    print_answers(told[:SHOWN])
    with step(f"draw {sheet}"):
        draw(sheet, room, told, assistant)
    title = f"score {FLAGS.rooms} rooms, {len(benchmark.questions)} questions"
    with step(title) as say:
        found = demo_room.score_rooms(assistant, benchmark, data, score, say)
    with step("the same again with black frames") as say:
        dark = demo_room.score_rooms(
            assistant, benchmark, data, black, say, black_frames=True
        )
    print_scores(found, dark)
    if not all(row.ok for row in rows):
        cli.fail("parity with the recorded outputs is broken")
    print(
        f"\n{time.perf_counter() - begin:.0f} s in all. Look at {sheet}, {video} and "
        f"{score / 'browser.html'}. Another question:\n"
        f"  .venv/bin/python -m scripts.generate --checkpoint={native} \\\n"
        f"      --video={video} --frames={assistant.cfg.layout.num_frames} \\\n"
        f"      --prompt_style=vica_readme "
        f'--question="How large is this room (in square meters)?"'
    )


def compare(assistant: Any, say: "Say") -> Any:
    from vica_jax.eval.golden import verify_golden

    def progress(done: int, total: int, what: str) -> None:
        say(done, total)

    return verify_golden(assistant, GOLDEN, progress, ["video_case.npz"])[0]


def print_rows(rows: Any) -> None:
    worst = max((r for r in rows if r.quantity == "logits"), key=lambda r: r.error)
    tokens = [row for row in rows if row.quantity.startswith("gen_ids")]
    print(
        f"    {len(rows)} quantities, {sum(not row.ok for row in rows)} past their "
        f"tolerance; worst logit error {worst.error:.1e}; "
        f"{sum(row.ok for row in tokens)} of {len(tokens)} token sequences identical "
        "(all cases: scripts.verify_parity)"
    )


def print_answers(told: Any) -> None:
    for one in told:
        question = " ".join(one.question.question.split())
        if len(question) > 84:
            question = f"{question[:81]}..."
        print(f"    {question:<84}  {one.said} (truth {one.truth}): {one.score:.1f}")


def draw(path: Path, room: Any, told: Any, assistant: Any) -> None:
    import jax

    from scripts.demo_sheet import draw_sheet

    weights = sum(leaf.size for leaf in jax.tree.leaves(assistant.params))
    scene = room.scene
    mean = 100 * sum(one.score for one in told) / max(len(told), 1)
    subtitle = (
        f"{scene.name}: {scene.area:.1f} m\u00b2, {len(scene.boxes)} things, "
        f"{room.film.seconds:.1f} s of film. A ViCA2 of {weights / 1e6:.1f} million "
        f"weights saw these {len(room.clip.frames)} frames and answered {len(told)} "
        f"questions, mean score {mean:.0f} of 100; {min(len(told), SHOWN)} of them:"
    )
    draw_sheet(path, room, told[:SHOWN], subtitle)


def print_scores(found: Any, black: Any) -> None:
    from scripts.demo_room import verdict_lines
    from vica_jax.eval.report import blind_lines

    for line in [*blind_lines(found), *verdict_lines(found, black)]:
        print(f"    {line}")


if __name__ == "__main__":
    cli.run(main)
