"""The same language model in PyTorch, on the same device: what ours is held against."""

import dataclasses

from convert import torch_gpu
from scripts.gpu_timing import Options, Row, Skip
from vica_jax.models.variants import QWEN2_7B, QWEN2_TINY

LENGTH = 22294  # positions of a video of 64 frames and its text
NEW_TOKENS = 32


class Torch:
    """transformers' ``generate`` from embeddings as long as a video's prompt."""

    def __init__(self, options: Options):
        self.options = options
        device = torch_gpu.device_name()
        if device is None and not options.reduced:
            raise Skip("no torch that sees a GPU")
        cfg, self.length = QWEN2_7B, LENGTH
        if options.reduced:
            cfg, self.length = dataclasses.replace(QWEN2_TINY, depth=2), 64
        try:
            self.model = torch_gpu.make(
                cfg,
                "cpu" if device is None else "cuda",
                "float32" if device is None else "bfloat16",
            )
        except ImportError as error:
            raise Skip(f"torch is not installed ({error})") from None

    def torch_1(self) -> list[Row]:
        return self._generate(1)

    def torch_8(self) -> list[Row]:
        return self._generate(8)

    def _generate(self, rows: int) -> list[Row]:
        found = torch_gpu.measure(
            self.model,
            rows=rows,
            length=self.length,
            new_tokens=NEW_TOKENS,
            repeats=min(self.options.repeats, 3 if rows == 1 else 2),
        )
        prefill, step = found["prefill_median"], found["decode_median"]
        shared = {
            "runs": len(found["prefill"]),
            "peak_bytes": found["peak_bytes"],
            "note": f"transformers' generate, {found['attention']}",
        }
        title = f"{rows} row{'s'[: rows > 1]}"
        return [
            {
                "name": f"PyTorch prefill, {title} of {self.length:,} tokens",
                "median_s": prefill,
                "min_s": min(found["prefill"]),
                "compile_s": max(found["first"] - prefill, 0.0),
                "tokens_per_s": rows * self.length / prefill,
                **shared,
            },
            {
                "name": f"PyTorch decode, {title}",
                "median_s": step,
                "min_s": min(found["decode_step"]),
                "tokens_per_s": rows / step,
                **shared,
            },
        ]
