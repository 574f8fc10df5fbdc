"""The rows of the CPU suite: layers, attention, decoding, training, pixels, sessions.

Published widths and lengths in float32, random weights that both sides share. With
``reduced`` the sizes that decide the time are cut, never what is computed.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convert import torch_timed
from convert.hiera import TRANSFORMERS, hiera_rows
from convert.qwen2 import qwen2_rows
from convert.siglip import siglip_rows
from scripts.bench_case import Case, Sides, compiled, relative_gap, unequal_share
from scripts.bench_inputs import (
    drawn,
    frames,
    noise,
    text_batch,
    text_model,
    text_weights,
    to_params,
    tokens,
)
from scripts.bench_int8 import int8_cache, int8_weights
from scripts.bench_questions import questions
from vica_jax.data.pixels import bucket_frames, resize_siglip
from vica_jax.decode.generate import Sampling, make_generate
from vica_jax.models import qwen2, siglip
from vica_jax.models.attention import attend
from vica_jax.models.config import Qwen2Config
from vica_jax.models.hiera import Block as HieraBlock
from vica_jax.models.hiera import hiera_pixels
from vica_jax.models.rope import rope_table
from vica_jax.models.siglip import siglip_pixels
from vica_jax.models.stack import stack_layers
from vica_jax.models.variants import (
    HIERA_BASE_PLUS,
    QWEN2_0_5B,
    QWEN2_7B,
    SIGLIP_SO400M,
)
from vica_jax.models.vica import Vica
from vica_jax.sharding import make_mesh
from vica_jax.train.optimizer import make_optimizer, make_schedule
from vica_jax.train.settings import OptimizerSettings
from vica_jax.train.state import TrainState, abstract_state, make_plan, shardings_of
from vica_jax.train.step import make_train_step

CLOSE = 1e-4  # float32, one layer
LEARNING_RATE, CLIP_NORM = 1e-4, 1.0
# 47M parameters: 8 layers and two tables of 16,384 ids.
QWEN2_47M = Qwen2Config(
    width=512,
    depth=8,
    num_heads=8,
    num_kv_heads=2,
    head_dim=64,
    mlp_dim=2048,
    vocab_size=16_384,
)


def siglip_layer(reduced: bool) -> Sides:
    cfg, count = replace(SIGLIP_SO400M, depth=1), 1 if reduced else 4
    rows = [row for row in siglip_rows(cfg, "") if "/layers/0/" in row.native]
    tensors, x = drawn(rows), noise(count, cfg.grid**2, cfg.width)
    params = to_params(rows, tensors)["siglip"]["layers"]["0"]
    block = siglip.Block(cfg)
    run, seconds, temporaries = compiled(
        lambda p, x: block.apply({"params": p}, x)[0], params, x
    )
    own = {k.removeprefix("encoder.layers.0."): v for k, v in tensors.items()}
    return Sides(
        ours=run,
        theirs=torch_timed.siglip_layer(cfg, own, x),
        gap=relative_gap,
        most=CLOSE,
        peer="transformers SiglipEncoderLayer, sdpa",
        compile_s=seconds,
        temporaries=temporaries,
    )


def hiera_block(index: int, count: int) -> Callable[[bool], Sides]:
    def make(reduced: bool) -> Sides:
        cfg, number = HIERA_BASE_PLUS, 1 if reduced else count
        rows = hiera_rows(cfg, "", TRANSFORMERS)
        rows = [row for row in rows if f"/blocks/{index}/" in row.native]
        stage = cfg.stage_of(index)
        side = cfg.image_size // cfg.patch_stride // cfg.pool**stage
        x = noise(number, side, side, cfg.stage_widths[stage])
        tensors = drawn(rows)
        params = to_params(rows, tensors)["hiera"]["blocks"][str(index)]
        block = HieraBlock(cfg, index)
        run, seconds, temporaries = compiled(
            lambda p, x: block.apply({"params": p}, x), params, x
        )
        own = {k.removeprefix(f"blocks.{index}."): v for k, v in tensors.items()}
        return Sides(
            ours=run,
            theirs=torch_timed.hiera_block(cfg, index, own, x),
            gap=relative_gap,
            most=CLOSE,
            peer="transformers Sam2MultiScaleBlock, sdpa",
            compile_s=seconds,
            temporaries=temporaries,
        )

    return make


def qwen2_layer(cfg: Qwen2Config, length: int) -> Callable[[bool], Sides]:
    def make(reduced: bool) -> Sides:
        one, T = replace(cfg, depth=1), length // 4 if reduced else length
        rows = [row for row in qwen2_rows(one) if "/layers/0/" in row.native]
        tensors, x = drawn(rows), noise(1, T, one.width)
        params = to_params(rows, tensors)["llm"]["layers"]["0"]
        block = qwen2.Block(one)

        def layer(params, x):
            table = rope_table(jnp.arange(T)[None], one.head_dim, one.rope_theta)
            return block.apply({"params": params}, x, table)[0]

        run, seconds, temporaries = compiled(layer, params, x)
        own = {k.removeprefix("model.layers.0."): v for k, v in tensors.items()}
        return Sides(
            ours=run,
            theirs=torch_timed.qwen2_layer(one, own, x),
            gap=relative_gap,
            most=CLOSE,
            peer="transformers Qwen2DecoderLayer, sdpa",
            compile_s=seconds,
            temporaries=temporaries,
        )

    return make


def decoding(rows: int) -> Callable[[bool], Sides]:
    def make(reduced: bool) -> Sides:
        llm = replace(QWEN2_0_5B, depth=2, vocab_size=8192) if reduced else QWEN2_0_5B
        length, new = 64, 32
        tensors, params = text_weights(llm)
        ids = tokens(rows, length, llm.vocab_size)
        # Id 0 ends a row, but not before all new tokens are there: on both sides.
        sampling = Sampling(
            eos_ids=(0,), pad_id=0, vocab_limit=llm.vocab_size, min_new_tokens=new
        )
        generate = make_generate(Vica(text_model(llm)), sampling, new)
        run, seconds, temporaries = compiled(
            generate, params, text_batch(ids), jax.random.key(0)
        )
        return Sides(
            ours=run,
            theirs=torch_timed.generate(llm, tensors, ids, new, 0),
            gap=unequal_share,
            most=0.0,
            peer="transformers generate, sdpa",
            compile_s=seconds,
            temporaries=temporaries,
            facts={"tokens": rows * new},
        )

    return make


def train_step(reduced: bool) -> Sides:
    llm, length = QWEN2_47M, 256 if reduced else 1024
    cfg = text_model(llm)
    tensors, params = text_weights(llm)
    stacked = {**params["llm"], "layers": stack_layers(params["llm"]["layers"])}
    table = "llm/.*=base, .*=frozen"
    settings = OptimizerSettings(
        rates={"base": LEARNING_RATE},
        schedule="constant",
        warmup_ratio=0.0,
        clip_norm=CLIP_NORM,
    )
    plan = make_plan(cfg, table, settings.rates, dtype="float32")
    schedule = make_schedule(settings, 1000)
    optimizer = make_optimizer(settings, plan.groups, schedule)
    shardings = shardings_of(abstract_state(plan, optimizer, make_mesh({"fsdp": 1})))
    step = make_train_step(
        Vica(cfg, scan=True),
        optimizer,
        schedule,
        clip_norm=CLIP_NORM,
        rates=settings.rates,
        shardings=shardings,
    )
    trained, frozen = {"llm": stacked}, {"newline": params["newline"]}
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=trained,
        opt_state=optimizer.init(trained),
        rng=jax.random.key_data(jax.random.key(0)),
    )
    ids = tokens(1, length, llm.vocab_size)
    batch: Any = {
        **text_batch(ids),
        "target_positions": np.arange(length - 1, dtype=np.int32)[None],
        "targets": ids[:, 1:],
    }
    batch = jax.tree.map(lambda x: jnp.asarray(x)[None], batch)
    state = jax.device_put(state, shardings)
    _, seconds, temporaries = compiled(step, state, frozen, batch)
    held = [state]

    def run():
        held[0], metrics = step(held[0], frozen, batch)
        return float(metrics["loss"])

    return Sides(
        ours=run,
        theirs=torch_timed.train_step(
            llm, tensors, ids, learning_rate=LEARNING_RATE, clip_norm=CLIP_NORM
        ),
        gap=relative_gap,
        most=CLOSE,
        peer="transformers Qwen2ForCausalLM, sdpa, torch AdamW",
        compile_s=seconds,
        temporaries=temporaries,
    )


def attention(length: int, heads: int, kv_heads: int) -> Callable[[bool], Sides]:
    def make(reduced: bool) -> Sides:
        T = length // 8 if reduced else length
        q, k, v = (noise(1, T, n, 128, seed=n) for n in (heads, kv_heads, kv_heads))
        on_device = [jnp.asarray(x) for x in (q, k, v)]
        run, seconds, temporaries = compiled(
            lambda q, k, v: attend(q, k, v, causal=True), *on_device
        )
        return Sides(
            ours=run,
            theirs=torch_timed.attention(q, k, v),
            gap=relative_gap,
            most=CLOSE,
            peer="torch scaled_dot_product_attention",
            compile_s=seconds,
            temporaries=temporaries,
        )

    return make


def pixels(reduced: bool) -> Sides:
    clip = frames(8 if reduced else 64, 480, 640)
    cfg = HIERA_BASE_PLUS
    raw, size = bucket_frames(clip[::2])
    chunk = 4
    sizes = np.tile(np.array(size, np.int32), (chunk, 1))
    for_siglip = jax.jit(lambda x: siglip_pixels(x, SIGLIP_SO400M))
    for_hiera = jax.jit(lambda x, sizes: hiera_pixels(x, sizes, cfg))
    _, seconds, temporaries = compiled(for_hiera, raw[:chunk], sizes)

    def ours():
        small = for_siglip(resize_siglip(clip, SIGLIP_SO400M.image_size))
        raw, _ = bucket_frames(clip[::2])
        parts = [
            for_hiera(raw[i : i + chunk], sizes) for i in range(0, len(raw), chunk)
        ]
        return jax.block_until_ready((small, parts))

    siglip_peer = torch_timed.siglip_processor(clip, SIGLIP_SO400M.image_size)
    hiera_peer = torch_timed.hiera_processor(clip[::2], cfg.image_size)

    def gap(x, y):
        small, parts = x
        nchw = lambda x: np.moveaxis(np.asarray(x), -1, 1)
        large = np.concatenate([nchw(x) for x in parts])
        return max(relative_gap(nchw(small), y[0]), relative_gap(large, y[1]))

    return Sides(
        ours=ours,
        theirs=lambda: (siglip_peer(), hiera_peer()),
        gap=gap,
        most=CLOSE,
        peer="the reference's processors (transformers transforms, torch interpolate)",
        compile_s=seconds,
        temporaries=temporaries,
    )


MB = 1e6
CASES = (
    Case(
        name="siglip",
        said="SigLIP-so400m layer, 4 frames",
        bar=1.25,
        goal=1.0,
        make=siglip_layer,
    ),
    Case(
        name="hiera_global",
        said="Hiera global block, 64 x 64",
        bar=0.6,
        goal=0.35,
        make=hiera_block(12, 2),
    ),
    Case(
        name="hiera_14",
        said="Hiera block, windows of 14",
        bar=1.15,
        goal=1.0,
        make=hiera_block(7, 4),
    ),
    Case(
        name="hiera_8",
        said="Hiera block, windows of 8",
        bar=1.15,
        goal=1.0,
        make=hiera_block(1, 2),
    ),
    Case(
        name="qwen2_0.5b_2k",
        said="Qwen2 layer, 0.5B width, 2,048 tokens",
        bar=1.15,
        goal=0.8,
        make=qwen2_layer(QWEN2_0_5B, 2048),
    ),
    Case(
        name="qwen2_0.5b_4k",
        said="Qwen2 layer, 0.5B width, 4,096 tokens",
        bar=1.15,
        goal=0.8,
        make=qwen2_layer(QWEN2_0_5B, 4096),
    ),
    Case(
        name="qwen2_7b_2k",
        said="Qwen2 layer, 7B width, 2,048 tokens",
        bar=1.15,
        goal=1.0,
        make=qwen2_layer(QWEN2_7B, 2048),
    ),
    Case(
        name="decode_1",
        said="greedy decode, Qwen2-0.5B, batch 1",
        bar=1.05,
        goal=0.9,
        make=decoding(1),
    ),
    Case(
        name="decode_8",
        said="greedy decode, Qwen2-0.5B, batch 8",
        bar=0.9,
        goal=0.7,
        make=decoding(8),
    ),
    Case(
        name="train",
        said="training step, 47M parameters, 1,024 tokens",
        bar=1.6,
        goal=1.2,
        make=train_step,
    ),
    Case(
        name="attention_8k",
        said="causal attention, 8,192 tokens, 28/4 heads of 128",
        bar=1.4,
        goal=1.1,
        memory_bar=300 * MB,
        memory_goal=200 * MB,
        make=attention(8192, 28, 4),
    ),
    Case(
        name="attention_22k",
        said="causal attention, 22,528 tokens, 28/4 heads of 128",
        bar=1.4,
        goal=1.1,
        memory_bar=300 * MB,
        memory_goal=200 * MB,
        make=attention(22_528, 28, 4),
    ),
    Case(
        name="pixels",
        said="64 frames of 640 x 480 -> SigLIP and Hiera pixels",
        bar=0.8,
        goal=0.5,
        make=pixels,
    ),
    Case(
        name="questions",
        said="18 questions on one video (against independent calls)",
        bar=1 / 8,
        goal=1 / 14,
        make=questions,
    ),
    Case(
        name="int8_weights",
        said="greedy decode, int8 weights (against exact ones)",
        make=int8_weights,
    ),
    Case(
        name="int8_cache",
        said="decoding 8 rows of 8,192, int8 cache (against exact)",
        make=int8_cache,
    ),
)
