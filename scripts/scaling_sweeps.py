"""Seconds and model FLOPs of inference against frames, questions and rows.

A small model in which the prompt rules: two layers of Qwen2-0.5B's width behind a
narrow SigLIP, with random weights and a small tokenizer. Everything goes through
``Assistant`` and ``VideoSession`` as users call them. No end of sequence can be chosen,
so that every answer has as many tokens as it may.
"""

import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np

from scripts.bench_inputs import text_model
from scripts.gpu_timing import compute_dtype, random_params
from vica_jax.data.tokenizer import load_tokenizer
from vica_jax.decode.answer import Answer
from vica_jax.decode.assistant import Assistant
from vica_jax.decode.loop import DECODE_CHUNK
from vica_jax.models.config import VicaConfig
from vica_jax.models.variants import QWEN2_0_5B
from vica_jax.models.vica import abstract_vica
from vica_jax.train.flops import batch_flops

Point = dict[str, Any]
Key = TypeVar("Key", bound=Hashable)
TOKENIZER = Path(__file__).parent.parent / "tests/goldens/tiny-vica2/checkpoint"
QUESTION = "How many objects of kind {} are there in this room? Answer with a number."
NEW_TOKENS = 4  # of an answer, but where decoding is timed


@dataclass(frozen=True, kw_only=True)
class Sweeps:
    """What is swept; ``video`` and ``clip`` are frames of the other two sweeps."""

    frames: tuple[int, ...] = (8, 16, 32, 64, 128)
    questions: tuple[int, ...] = (1, 2, 4, 8, 16, 18, 32)
    rows: tuple[int, ...] = (1, 2, 4, 8, 16)
    video: int = 64
    clip: int = 16
    rounds: int = 3
    width: int = 896
    vocab_size: int = 12661  # the depth's share: decoding weighs what it does


REDUCED = Sweeps(
    frames=(2, 4, 8),
    questions=(1, 2, 4),
    rows=(1, 2),
    video=4,
    clip=2,
    width=128,
    vocab_size=1024,
)


def model(sweeps: Sweeps) -> VicaConfig:
    whole = QWEN2_0_5B
    llm = replace(
        whole,
        width=sweeps.width,
        depth=2,
        num_heads=sweeps.width // whole.head_dim,
        mlp_dim=whole.mlp_dim * sweeps.width // whole.width,
        vocab_size=sweeps.vocab_size,
    )
    return text_model(llm)


def interleaved(
    runs: dict[Key, Callable[[], Any]], rounds: int
) -> dict[Key, list[float]]:
    """Seconds of every run in each round, there and back, after one call of each.

    What a machine does besides then falls on all alike.
    """
    for run in runs.values():
        run()
    seconds: dict[Key, list[float]] = {key: [] for key in runs}
    for number in range(rounds):
        for key in list(runs)[:: -1 if number % 2 else 1]:
            start = time.perf_counter()
            runs[key]()
            seconds[key].append(time.perf_counter() - start)
    return seconds


class Measured:
    """The three sweeps on one model."""

    def __init__(self, sweeps: Sweeps):
        self.sweeps, self.cfg = sweeps, model(sweeps)
        dtype = jnp.dtype(compute_dtype())
        self.assistant = Assistant(
            self.cfg,
            random_params(abstract_vica(self.cfg)[0], dtype),
            load_tokenizer(TOKENIZER),
            # An id past the tokenizer, which is never chosen.
            generation_config={"eos_token_id": self.cfg.llm.vocab_size - 1},
            dtype=dtype,
        )

    def video(self, frames: int, new_tokens: int = NEW_TOKENS) -> tuple[Any, Any]:
        """A video that is read, and its settings."""
        settings = {
            "num_frames": frames,
            "source_fps": 1.0,
            "max_new_tokens": new_tokens,
        }
        rng = np.random.default_rng(frames)
        pixels = rng.integers(0, 256, (frames, 240, 320, 3), np.uint8)
        return self.assistant.read(pixels, **settings), settings

    def frames(self) -> list[Point]:
        """A fresh video of so many frames and one question about it."""
        answers: dict[int, Answer] = {}

        def asking(count: int) -> Callable[[], None]:
            loaded, settings = self.video(count)

            def run() -> None:
                question = QUESTION.format(1)
                answers[count] = self.assistant.answer(loaded, question, **settings)

            return run

        runs = {count: asking(count) for count in self.sweeps.frames}
        seconds = interleaved(runs, self.sweeps.rounds)
        return [
            point(times)
            | {
                "frames": count,
                "tokens": answers[count].tokens["total"],
                "flops": self._flops([answers[count]], frames=count),
            }
            for count, times in seconds.items()
        ]

    def questions(self) -> dict[str, Any]:
        """A session opened and asked n questions, against n answers one by one.

        A single answer is timed in every round; n of them cost n times its median.
        """
        loaded, settings = self.video(self.sweeps.video)
        texts = [QUESTION.format(i + 1) for i in range(max(self.sweeps.questions))]
        answers: dict[int, list[Answer]] = {}

        def session(count: int) -> Callable[[], Any]:
            def run() -> None:
                opened = self.assistant.open(loaded, **settings)
                answers[count] = opened.ask(texts[:count])

            return run

        runs = {count: session(count) for count in self.sweeps.questions}
        runs[0] = lambda: self.assistant.answer(loaded, texts[0], **settings)
        seconds = interleaved(runs, self.sweeps.rounds)
        single = point(seconds.pop(0))
        one = self._flops(answers[self.sweeps.questions[0]][:1], self.sweeps.video)
        points = []
        for count, times in seconds.items():
            found = point(times) | {"questions": count}
            independent = count * single["median_s"]
            found["independent_s"] = independent
            found["times_cheaper"] = independent / found["median_s"]
            found["flops"] = self._session_flops(answers[count])
            found["independent_flops"] = count * one
            points.append(found)
        intercept, slope, share = line_through(
            [x["questions"] for x in points], [x["median_s"] for x in points]
        )
        return {
            "single": single,
            "points": points,
            "line": {
                "prefix_s": intercept,
                "per_question_s": slope,
                "r_squared": share,
            },
        }

    def rows(self) -> list[Point]:
        """Rows of one batch, each with a video of its own: prefill and decode steps."""
        steps, split = DECODE_CHUNK, {}

        def asking(count: int) -> Callable[[], None]:
            loaded, settings = self.video(self.sweeps.clip, steps + 1)
            asked = [(loaded, QUESTION.format(i + 1)) for i in range(count)]

            def run() -> None:
                answers = self.assistant.answer_batch(asked, **settings)
                split.setdefault(count, []).append(answers[0].seconds)
                split[count, "answers"] = answers

            return run

        runs = {count: asking(count) for count in self.sweeps.rows}
        seconds = interleaved(runs, self.sweeps.rounds)
        points = []
        for count, times in seconds.items():
            taken = split[count][1:]  # the first call compiles
            middle = lambda name, taken=taken: statistics.median(x[name] for x in taken)
            points.append(
                point(times)
                | {
                    "rows": count,
                    "encode_s": middle("encode"),
                    "prefill_s": middle("prefill"),
                    "decode_step_s": middle("decode") / steps,
                    "flops": self._flops(
                        split[count, "answers"], count * self.sweeps.clip
                    ),
                }
            )
        return points

    # ------------------------------------------------------------------ model FLOPs
    def _forward(self, lengths: Sequence[int], frames: int, targets: int) -> float:
        return batch_flops(
            self.cfg,
            lengths=lengths,
            frames=frames,
            hiera_frames=self.cfg.layout.num_hiera_frames(frames),
            targets=targets,
            trainable=frozenset(),
        )

    def _flops(self, answers: Sequence[Answer], frames: int) -> float:
        """Of answers by themselves; an answer's last token is chosen, but not run."""
        lengths = [x.tokens["total"] + x.tokens["new"] - 1 for x in answers]
        return self._forward(lengths, frames, sum(x.tokens["new"] for x in answers))

    def _session_flops(self, answers: Sequence[Answer]) -> float:
        """Of a prefix once and of what follows it, for each answer."""
        video = self.cfg.layout.video_tokens(self.sweeps.video)
        alone = self._forward([video], self.sweeps.video, 0)
        behind = self._flops(answers, 0) - self._forward([video] * len(answers), 0, 0)
        return alone + behind


def point(times: Sequence[float]) -> Point:
    return {
        "median_s": statistics.median(times),
        "min_s": min(times),
        "seconds": list(times),
    }


def line_through(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Intercept and slope of the least squares' line, and the share it explains.

    The share is R squared; of two points or of a constant it is 1.
    """
    slope, intercept = np.polyfit(x, y, 1)
    rest = np.square(np.asarray(y) - intercept - slope * np.asarray(x)).sum()
    spread = np.square(np.asarray(y) - np.mean(y)).sum()
    return float(intercept), float(slope), float(1 - rest / spread if spread else 1.0)
