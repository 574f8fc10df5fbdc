"""The model under test in a parity run: its modules, jitted one by one."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vica_jax.data.example import Example, collate
from vica_jax.decode.assistant import Assistant, media_of
from vica_jax.decode.generate import begin, decode, encode, prefill, text_of
from vica_jax.decode.settings import AnswerSettings
from vica_jax.models.config import HieraConfig
from vica_jax.models.hiera import Hiera, hiera_pixels
from vica_jax.models.vica import Vica
from vica_jax.typing import Batch, Params

ROOM = 32  # cache slots for new tokens come in multiples of this


class Subject:
    """The model under test, its modules jitted one by one."""

    def __init__(self, assistant: Assistant, antialias: bool | None = None):
        cfg = assistant.cfg
        if antialias is not None and cfg.hiera is not None:
            cfg = replace(cfg, hiera=replace(cfg.hiera, antialias=antialias))
        self.assistant, self.cfg, self.layout = assistant, cfg, cfg.layout
        self.params = assistant.params
        self.model = Vica(cfg, jnp.float32)
        self._compiled: dict[str, Callable[..., Any]] = {}

    def run(self, name: str, function: Callable[..., Any], *inputs: Any) -> Any:
        """``function(module, *inputs)`` and its intermediates."""
        if name not in self._compiled:

            def apply(params, *inputs):
                return self.model.apply(
                    {"params": params},
                    *inputs,
                    method=function,
                    mutable=["intermediates"],
                )

            self._compiled[name] = jax.jit(apply)
        return self._compiled[name](self.params, *inputs)

    def siglip(self, pixels: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        features, state = self.run("siglip", lambda m, x: m.siglip(x), pixels)
        return np.asarray(features), state["intermediates"]["siglip"]

    def hiera(self, raw: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """Pixels and every stage of raw uint8 frames ``[n,h,w,3]``."""
        cfg = self.cfg.hiera
        assert cfg is not None
        sizes = np.full((len(raw), 2), raw.shape[1:3], np.int32)
        pixels = _hiera_pixels(cfg, raw, sizes)
        state = _hiera_stages(cfg, self.params["hiera"], pixels)
        return np.asarray(pixels), state["intermediates"]

    def bank(self, batch: Batch) -> Any:
        return encode(self.model, self.params, media_of(batch))

    def sequence(self, example: Example) -> dict[str, Any]:
        """Inputs, hidden states and logits of one prompt, at its true length."""
        batch = collate([example], self.layout)

        def everything(m, batch, bank):
            x = m.embed(batch, bank)
            positions = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
            hidden, _ = m.llm(x, positions)
            return x, m.llm.final_norm(hidden), m.logits(hidden)

        (embeds, hidden, logits), state = self.run(
            "sequence", everything, text_of(batch), self.bank(batch)
        )
        length = int(batch["lengths"][0])
        layers = state["intermediates"]["llm"]["layers"]
        outputs = [layers[str(i)]["output"][0] for i in range(self.cfg.llm.depth)]
        states = [embeds, *outputs[:-1], hidden]
        return {
            "embeds": np.asarray(embeds)[0, :length],
            "states": np.stack([np.asarray(s)[0, length - 1] for s in states]),
            "logits": np.asarray(logits)[0, :length],
        }

    def generate(
        self, examples: list[Example], count: int, full_vocab: bool = False, **change
    ) -> np.ndarray:
        """Greedy ids int32 ``[B,count]``; ``change`` are fields of ``Sampling``."""
        vocab = self.cfg.llm.vocab_size
        sampling = self.assistant.sampling(AnswerSettings(repetition_penalty=1.0))
        if full_vocab:
            change["vocab_limit"] = vocab
        sampling = replace(sampling, **change)
        batch = collate(examples, self.layout, pad_id=sampling.pad_id)
        text, room = text_of(batch), -(-count // ROOM) * ROOM
        length = text["tokens"].shape[1] + room
        bank = self.bank(batch)
        logits, cache = prefill(self.model, length, self.params, text, bank)
        key = jax.random.key(0)
        state = begin(sampling, logits, text["lengths"], key, cache)
        first = np.asarray(state.token)[:, None]
        choice = sampling.choice()
        _, rest = decode(self.model, room, self.params, choice, state, count - 1)
        return np.concatenate([first, np.asarray(rest)[:, : count - 1]], axis=1)


@functools.partial(jax.jit, static_argnums=0)
def _hiera_pixels(cfg: HieraConfig, raw: jax.Array, sizes: jax.Array) -> jax.Array:
    return hiera_pixels(raw, sizes, cfg)


@functools.partial(jax.jit, static_argnums=0)
def _hiera_stages(cfg: HieraConfig, params: Params, pixels: jax.Array) -> Any:
    whole = Hiera(cfg, len(cfg.depths), jnp.float32)
    return whole.apply({"params": params}, pixels, mutable=["intermediates"])[1]
