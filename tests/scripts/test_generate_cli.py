"""``scripts.generate`` on the recorded tiny checkpoints (random weights)."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import edited, pictures, write_video
from PIL import Image

ROOT = Path(__file__).parents[2]
SHORT = {"frames": 8, "max_new_tokens": 20}
ASK = SHORT | {"question": "How many chairs are there?"}
TELL = ASK | {"output": "json"}


@pytest.fixture(scope="module")
def told(vica, video, generate):
    """The answer that the others are compared with, everything told."""
    return generate(checkpoint=vica, video=video, **TELL).json


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    """A folder of the video's frames 0, 3, 6, ..., named 0.png ... 7.png."""
    folder = tmp_path_factory.mktemp("frames")
    for i, frame in enumerate(pictures(24)[::3]):
        Image.fromarray(frame).save(folder / f"{i}.png")
    return folder


def test_json_tells_everything(told, vica, video):
    assert next(iter(told)) == "answer" and isinstance(told["answer"], str)
    assert len(told["token_ids"]) == 20 and told["finish"] == "length"
    indices = np.linspace(0, 23, 8).astype(int).tolist()
    assert told["frame_indices"] == indices
    assert told["frame_times"] == [i / 10 for i in indices]
    tokens = told["tokens"]
    assert tokens["siglip"] == 8 * 3 * 4 and tokens["hiera"] == 0
    assert tokens["total"] == tokens["siglip"] + tokens["text"]
    assert tokens["new"] == 20
    steps = ("load", "read", "pixels", "encode", "prefill", "decode")
    assert tuple(told["seconds"]) == steps
    assert all(seconds >= 0 for seconds in told["seconds"].values())
    assert told["notes"] == []
    assert told["input"] == {
        "checkpoint": str(vica),
        "adapter": None,
        "video": str(video),
        "image": None,
        "question": ASK["question"],
    }


def test_json_tells_every_setting_and_its_default(told, vica2, generate):
    settings = told["settings"]
    assert settings == {
        "num_frames": 8,
        "fps": None,
        "source_fps": None,
        "reader": settings["reader"],
        "token_ratio": None,
        "image_mode": "auto",
        "time_instruction": False,
        "prompt_style": "plain",
        "options": [],
        "max_new_tokens": 20,
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "seed": 0,
        "repetition_penalty": 1.05,  # the checkpoint's
        "dtype": "float32",  # on a CPU
        "kv_dtype": "float32",
        "mesh": None,
        "hiera": None,
    }
    assert settings["reader"] in ("decord", "pyav")
    text = {"question": "Say something.", "output": "json"}
    plain = generate(checkpoint=vica2, **text, max_new_tokens=1).json["settings"]
    assert plain["num_frames"] == 64
    ratio = {"frame_stride": 2, "output_stage": 4, "pool_stride": 2}
    assert plain["hiera"] == ratio


def test_text_is_the_answer_alone(told, vica, video, generate):
    result = generate(checkpoint=vica, video=video, **ASK)
    assert (result.code, result.err) == (0, "")
    assert result.out == told["answer"] + "\n"


def test_a_stream_is_the_same_text(told, vica, video, generate):
    result = generate("--stream", checkpoint=vica, video=video, **ASK)
    assert (result.code, result.out) == (0, told["answer"] + "\n")


def test_the_native_form_answers_the_same(told, native, video, generate):
    result = generate(checkpoint=native, video=video, **TELL).json
    for key in ("answer", "token_ids", "tokens", "settings"):
        assert result[key] == told[key]


def test_pyav_reads_the_same(told, vica, video, generate):
    result = generate(checkpoint=vica, video=video, reader="pyav", **TELL).json
    assert result["settings"]["reader"] == "pyav"
    assert result["token_ids"] == told["token_ids"]


# ---------------------------------------------------------------------- frames
def test_a_frame_cache_serves_the_next_call(told, vica, video, tmp_path, generate):
    options = {"frame_cache": tmp_path / "frames", "frame_cache_gb": 1}
    calls = [
        generate(checkpoint=vica, video=video, **TELL, **options).json for _ in range(2)
    ]
    for call, steps in zip(
        calls, [{"read", "pixels", "cache"}, {"cache"}], strict=True
    ):
        assert call["seconds"].keys() & {"read", "pixels", "cache"} == steps
        for name in ("answer", "token_ids", "frame_times", "settings", "notes"):
            assert call[name] == told[name]
    wrong = generate(
        checkpoint=vica, video=video, **ASK, frame_cache=vica / "config.json"
    )
    assert wrong.code == 1 and "this is a file: give a folder" in wrong.err


def test_fps(vica, video, generate):
    """Every round(10 / 3.3)-th frame; times are number / step, as in training."""
    result = generate(checkpoint=vica, video=video, fps=3.3, **TELL).json
    assert result["frame_indices"] == list(range(0, 24, 3))
    assert result["frame_times"] == [float(i) for i in range(8)]
    assert result["settings"]["fps"] == 3.3 and result["notes"] == []


def test_fps_past_the_limit(told, vica, video, generate):
    asked = generate(checkpoint=vica, video=video, fps=10, **TELL)
    assert asked.json["frame_indices"] == told["frame_indices"]
    assert asked.json["token_ids"] == told["token_ids"]
    assert "note: 24 frames at 10 fps pass the limit: 8 are taken" in asked.err


def test_a_folder_of_frames(vica, frames, generate):
    asked = generate(checkpoint=vica, video=frames, **TELL)
    assert "note: frames without a clock: taken as 2 per second" in asked.err
    assert asked.json["frame_times"] == [i / 2 for i in range(8)]
    stated = generate(checkpoint=vica, video=frames, source_fps=5, **TELL)
    assert stated.err == "" and stated.json["notes"] == []
    assert stated.json["frame_times"] == [i / 5 for i in range(8)]
    assert stated.json["token_ids"] == asked.json["token_ids"]


@pytest.mark.parametrize("count", [1, 3])
def test_a_very_short_video_runs_and_says_so(count, vica, tmp_path, generate):
    short = write_video(tmp_path / "short.mp4", count)
    result = generate(checkpoint=vica, video=short, **TELL)
    assert len(result.json["frame_indices"]) == 8
    assert set(result.json["frame_indices"]) == set(range(count))
    note = f"the video has {count} frames, 8 are taken: they repeat"
    assert result.json["notes"] == [note] and result.err == f"note: {note}\n"


# ------------------------------------------------------------------ token ratio
def test_token_ratio(vica2, video, generate):
    asked = TELL | {"max_new_tokens": 1, "token_ratio": "8,4,4"}
    result = generate(checkpoint=vica2, video=video, **asked).json
    assert result["tokens"]["siglip"] == 8 * 3 * 4
    assert result["tokens"]["hiera"] == 8 * 1 * 2
    assert result["settings"]["token_ratio"] == [8, 4, 4]
    ratio = {"frame_stride": 1, "output_stage": 4, "pool_stride": 4}
    assert result["settings"]["hiera"] == ratio


@pytest.mark.slow
def test_the_token_ratio_of_the_checkpoint_changes_nothing(vica2, video, generate):
    asked = {"checkpoint": vica2, "video": video, **TELL}
    plain = generate(**asked).json
    same = generate(token_ratio="4,4,2", **asked).json
    for key in ("token_ids", "tokens"):
        assert same[key] == plain[key]
    assert same["settings"]["hiera"] == plain["settings"]["hiera"]
    other = generate(token_ratio="8,4,4", **asked).json
    assert other["token_ids"] != plain["token_ids"]


# --------------------------------------------------------------------- prompts
def test_prompts_are_longer_by_what_is_added(told, vica, video, generate):
    """The same model with another text; ``text`` counts the prompt's tokens."""

    def text(*args, **changes):
        asked = TELL | {"max_new_tokens": 1} | changes
        result = generate(*args, checkpoint=vica, video=video, **asked).json
        assert result["tokens"]["siglip"] == told["tokens"]["siglip"]
        return result["tokens"]["text"], result["settings"]

    plain = told["tokens"]["text"]
    timed, settings = text("--time_instruction")
    assert timed > plain + 40 and settings["time_instruction"]
    readme, settings = text(prompt_style="vica_readme")
    assert readme > plain + 20 and settings["prompt_style"] == "vica_readme"
    options, settings = text("--option=A. one", "--option=B. two")
    assert options > plain and settings["options"] == ["A. one", "B. two"]
    typed = f"<image>\n{ASK['question']}"
    raw, settings = text("--raw_prompt", question=typed)
    assert raw == plain and settings["prompt_style"] == "raw"
    bare, _ = text("--raw_prompt", question=f"<image>{ASK['question']}")
    assert bare == plain - 1


def test_a_raw_prompt_is_the_turn_as_typed(told, vica, video, generate):
    asked = TELL | {"question": f"<image>\n{ASK['question']}"}
    raw = generate("--raw_prompt", checkpoint=vica, video=video, **asked).json
    own_tag = generate(checkpoint=vica, video=video, **asked).json
    assert raw["token_ids"] == own_tag["token_ids"] == told["token_ids"]


# ---------------------------------------------------------------- other media
def test_text_only(vica, generate):
    result = generate(checkpoint=vica, **TELL | {"max_new_tokens": 1}).json
    assert result["tokens"]["siglip"] == 0 and result["frame_indices"] == []
    assert result["tokens"]["total"] == result["tokens"]["text"] > 30
    assert "decode" not in result["seconds"] and result["tokens"]["new"] == 1


def test_images(vica, frames, generate):
    """One image: base and tiles; several: a square and a newline each."""
    one, two = frames / "0.png", frames / "5.png"
    asked = {"checkpoint": vica, **TELL, "max_new_tokens": 1}
    single = generate(image=one, **asked).json
    # 96 x 64 pixels on two tiles of 72: the base, and 8 of the map's 10 columns (the
    # others are padding); a newline ends each of the 5 rows.
    assert single["tokens"]["siglip"] == 25 + 5 * (8 + 1)
    several = generate(image=f"{one},{two}", **asked).json
    assert several["tokens"]["siglip"] == 2 * (25 + 1)
    assert several["input"]["image"] == [str(one), str(two)]
    square = generate(image=one, image_mode="padded", **asked).json
    assert square["tokens"]["siglip"] == 25 + 1
    anyres = generate(image=f"{one},{two}", image_mode="anyres", **asked).json
    assert anyres["tokens"]["siglip"] == 2 * single["tokens"]["siglip"]


# -------------------------------------------------------------------- sampling
def test_sampling_is_repeated_by_its_seed(told, vica, video, generate):
    hot = {"temperature": 3.0, "top_k": 400, "top_p": 0.99}
    asked = {"checkpoint": vica, "video": video, **TELL, "max_new_tokens": 1}

    def draw(**options):
        return generate(**asked, **hot | options).json

    first = draw(seed=7)
    assert {key: first["settings"][key] for key in hot} == hot
    assert first["settings"]["seed"] == 7
    drawn = [draw(seed=seed)["token_ids"] for seed in range(7, 15)]
    assert drawn[0] == first["token_ids"] and len({*map(tuple, drawn)}) > 4
    for single in ({"top_k": 1}, {"top_p": 1e-6}):
        assert draw(**single)["token_ids"] == told["token_ids"][:1]


def test_a_repetition_penalty_of_ones_own(vica, video, generate):
    asked = {"checkpoint": vica, "video": video, **TELL}
    result = generate(**asked, repetition_penalty=50).json
    assert len(set(result["token_ids"])) == 20
    assert result["settings"]["repetition_penalty"] == 50


# ------------------------------------------------------------------- slow ones
@pytest.mark.slow
def test_an_answer_that_meets_the_end_of_the_context(vica, video, tmp_path, generate):
    source = edited(vica, tmp_path / "150", tokenizer_model_max_length=150)
    result = generate(checkpoint=source, video=video, **TELL | {"max_new_tokens": 64})
    room = 150 - result.json["tokens"]["total"]
    assert 0 < room < 64 and result.json["tokens"]["new"] == room
    note = f"at most {room} new tokens fit the context of 150 (64 were allowed)"
    assert result.json["notes"] == [note] and note in result.err


@pytest.mark.slow
def test_a_mesh_of_one(told, vica, video, generate):
    result = generate(checkpoint=vica, video=video, mesh="data:1", **TELL).json
    assert result["token_ids"] == told["token_ids"]
    assert result["settings"]["mesh"] == {"data": 1}


@pytest.mark.slow
def test_bfloat16(vica, video, generate):
    result = generate(checkpoint=vica, video=video, dtype="bfloat16", **TELL).json
    assert result["settings"]["dtype"] == "bfloat16" and result["tokens"]["new"] == 20


@pytest.mark.slow
def test_an_int8_cache(vica, video, generate):
    answer = generate(checkpoint=vica, video=video, kv_dtype="int8", **TELL).json
    assert answer["settings"]["kv_dtype"] == "int8" and answer["token_ids"]
    line = generate(checkpoint=vica, video=video, kv_dtype="int4", **TELL).line
    assert "--kv_dtype" in line


def test_as_a_process(told, vica, video):
    """What a shell sees: the answer on stdout, the rest on stderr, and the status."""

    def ask(*args):
        command = [sys.executable, "-m", "scripts.generate", *args]
        command += [f"--{key}={value}" for key, value in ASK.items()]
        command += [f"--checkpoint={vica}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, check=False)

    done = ask(f"--video={video}", "--stream")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == told["answer"] + "\n"
    done = ask(f"--video={vica / 'config.json'}")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: ") and done.stderr.count(b"\n") == 1
