"""The recorded ViCA2 checkpoint with half its language model: quicker to compile."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from convert.load import load_assistant
from vica_jax.decode.answer import Answer
from vica_jax.decode.assistant import Assistant

CHECKPOINT = Path(__file__).parent / "goldens" / "tiny-vica2" / "checkpoint"
SHORT = {"max_new_tokens": 12, "num_frames": 8, "source_fps": 2.0}


def make_assistant(dtype: str = "float32") -> Assistant:
    whole = load_assistant(CHECKPOINT, dtype=dtype)
    llm = whole.params["llm"]
    layers = {i: llm["layers"][i] for i in ("0", "1")}
    return Assistant(
        replace(whole.cfg, llm=replace(whole.cfg.llm, depth=2)),
        {**whole.params, "llm": {**llm, "layers": layers}},
        whole.tokenizer,
        generation_config=whole.generation_config,
        dtype=dtype,
    )


def pixels(frames: int = 8, seed: int = 0, hw: tuple[int, int] = (40, 60)):
    """Random uint8 ``[frames,h,w,3]``."""
    return np.random.default_rng(seed).integers(0, 256, (frames, *hw, 3), np.uint8)


def assert_same(answers: Sequence[Answer], expected: Sequence[Answer]) -> None:
    """All but the times."""
    told = [replace(answer, seconds={}) for answer in answers]
    assert told == [replace(answer, seconds={}) for answer in expected]
