"""Everything once, on a small recorded checkpoint: `make demo`.

    python -m scripts.demo [--workdir=demo]

Writes a short mp4, converts a small HF-form ViCA2 checkpoint to the native form, checks
it against outputs recorded from the PyTorch reference, and asks a question. The
weights are random, so the answer is noise: what counts is that it is the reference's
noise, token for token.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from absl import flags

from scripts import cli

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", "demo", "folder for what the demo writes")

GOLDEN = Path(__file__).parent.parent / "tests" / "goldens" / "tiny-vica2"
QUESTION = "How many boxes are in this room?"


@contextmanager
def step(title: str) -> Iterator[None]:
    print(f"[ ] {title} ...", end="", flush=True)
    start = time.perf_counter()
    yield
    print(f"\r[x] {title}  ({time.perf_counter() - start:.1f} s)")


def write_video(path: Path, seconds: int = 4, rate: int = 10) -> None:
    """An h264 file: a floor, a wall, and two boxes that slide past each other."""
    height, width = 144, 192
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(seconds * rate):
            frame = np.full((height, width, 3), (208, 200, 188), np.uint8)
            frame[height * 3 // 5 :] = (139, 110, 84)
            for colour, left, top, size in (
                ((180, 40, 40), 10 + 3 * i, 60, 36),
                ((40, 70, 170), 150 - 2 * i, 80, 44),
            ):
                left = int(np.clip(left, 0, width - size))
                frame[top : top + size, left : left + size] = colour
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            file.mux(stream.encode(picture))
        file.mux(stream.encode())


def main() -> None:
    workdir = Path(FLAGS.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    video, native = workdir / "room.mp4", workdir / "tiny-vica2-native"
    shutil.rmtree(native, ignore_errors=True)
    with step("import jax and the model code"):
        from convert.load import load_assistant, to_native
        from vica_jax.eval.golden import verify_golden
    with step(f"write a video: {video}"):
        write_video(video)
    with step(f"convert the HF checkpoint to {native}"):
        to_native(GOLDEN / "checkpoint", native)
    with step("load it"):
        assistant = load_assistant(native, dtype="float32")
    with step("compare with outputs recorded from PyTorch"):

        def progress(done: int, total: int, what: str) -> None:
            print(f"\r[ ] compared {done} of {total} cases", end="", flush=True)

        files = ["video_case.npz"]
        rows, _ = verify_golden(assistant, GOLDEN, progress, files)
    worst = max((r for r in rows if r.quantity == "logits"), key=lambda r: r.error)
    tokens = [row for row in rows if row.quantity.startswith("gen_ids")]
    same = sum(row.ok for row in tokens)
    print(
        f"    {len(rows)} quantities, {sum(not row.ok for row in rows)} past their "
        f"tolerance; worst logit error {worst.error:.1e}; "
        f"{same} of {len(tokens)} token sequences identical "
        "(all cases: scripts.verify_parity)"
    )
    with step(f"ask: {QUESTION}"):
        answer = assistant.answer(video, QUESTION, max_new_tokens=24)
    print(f"    {len(answer.frame_indices)} frames, {answer.tokens}")
    print(f"    seconds {answer.seconds}")
    print(f"    answer (random weights): {answer.text!r}")
    print(
        "\nThe same by hand:\n"
        f"  .venv/bin/python -m scripts.generate --checkpoint={native} \\\n"
        f'      --video={video} --question="{QUESTION}" --max_new_tokens=24'
    )
    if not all(row.ok for row in rows):
        cli.fail("parity with the recorded outputs is broken")


if __name__ == "__main__":
    cli.run(main)
