"""Bad input ends in one message that says what and where, exit status 1, no files."""

import re
import shutil
from pathlib import Path

import av
import jax
import numpy as np
import pytest
import safetensors.numpy
from command_line import edit_json, edited, pictures, run, write_video
from PIL import Image

from vica_jax.checkpoint import CheckpointWriter

WEIGHTS = "model.safetensors"
NORM = "model.norm.weight"


def refused(source, folder: Path, *args, **options) -> str:
    """The message of a conversion that must not begin or not end."""
    target = folder / "made" / "target"
    before = sorted(folder.rglob("*"))
    result = run("convert_checkpoint", *args, source=source, target=target, **options)
    assert result.out == ""
    left = [path for path in sorted(folder.rglob("*")) if path not in before]
    assert left in ([], [folder / "made"])  # at most the folder of the target
    return result.error


# --------------------------------------------------------- tensors of a source
def drop(name):
    return lambda tensors: tensors.pop(name)


def put(name, value):
    return lambda tensors: tensors.update({name: value})


TENSORS = {
    "missing": (drop(NORM), rf"1 missing; .*\): missing: {re.escape(NORM)}"),
    "extra": (put("model.more", np.ones(3, np.float32)), "unexpected: model.more"),
    "shape": (put(NORM, np.ones(63, np.float32)), r"expected \[64\], found \[63\]"),
    "nan": (put(NORM, np.full(64, np.nan, np.float32)), f"{NORM} holds NaN or Inf"),
    "inf": (put(NORM, np.full(64, np.inf, np.float32)), f"{NORM} holds NaN or Inf"),
    "int": (put(NORM, np.ones(64, np.int32)), f"{NORM} is int32; only float32"),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors(kind, vica, tmp_path):
    change, message = TENSORS[kind]
    source = shutil.copytree(vica, tmp_path / "source")
    tensors = safetensors.numpy.load_file(source / WEIGHTS)
    change(tensors)
    safetensors.numpy.save_file(tensors, source / WEIGHTS)
    for error in (
        refused(source, tmp_path),
        run("generate", checkpoint=source, question="What?").error,
    ):
        assert re.search(message, error) and str(source) in error
        assert error.count("\n") == 1


def test_many_violations_are_one_message(vica, tmp_path):
    """All at once: the counts in the first line, the names below, indented."""
    source = shutil.copytree(vica, tmp_path / "source")
    tensors = safetensors.numpy.load_file(source / WEIGHTS)
    kept = {name: x for name, x in tensors.items() if ".layers.1." not in name}
    safetensors.numpy.save_file(kept | {"x": np.ones(1)}, source / WEIGHTS)
    first, *more = refused(source, tmp_path).splitlines()
    assert "28 missing, 1 unexpected; take both" in first
    assert len(more) == 12 + 1 + 1
    assert "  missing: ... and 16 more" in more and more[-1] == "  unexpected: x"


# ----------------------------------------------------------- files of a source
def cut(name, share):
    def damage(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])

    return damage


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


SHARD = "model-00002-of-00004.safetensors"
FILES = {
    "cut": (cut(SHARD, 0.5), f"{SHARD}: truncated"),
    "header": (cut(SHARD, 0.001), f"{SHARD}: truncated or not a safetensors"),
    "shard": (remove(SHARD), f"1 of 4 shards .* missing: {SHARD}"),
    "index": (remove(WEIGHTS + ".index.json"), f"neither {WEIGHTS} nor"),
    "config": (remove("config.json"), "no config.json"),
    "json": (write("config.json", '{"model_type": '), "config.json: not valid JSON"),
    "list": (write("config.json", "[]"), "config.json: expected a JSON object"),
    "generation": (write("generation_config.json", "{"), "generation_config.json: not"),
    "tokenizer": (remove("tokenizer.json", "vocab.json"), "no tokenizer here"),
    "broken": (write("tokenizer.json", "{}"), "tokenizer cannot be read"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files(kind, vica2, tmp_path):
    damage, message = FILES[kind]
    source = shutil.copytree(vica2, tmp_path / "source")
    damage(source)
    for error in (
        refused(source, tmp_path),
        run("generate", checkpoint=source, question="What?").line,
    ):
        assert re.search(message, error) and str(source) in error


# -------------------------------------------------------- values of config.json
VALUES = [
    ({"model_type": "llama"}, "unknown model_type 'llama'"),
    ({"model_type": None}, "unknown model_type None"),
    ({"hidden_act": "gelu"}, r"hidden_act = 'gelu' is not supported \(supported: 'si"),
    ({"rope_scaling": {"type": "yarn", "factor": 4}}, "rope_scaling = .* null"),
    ({"mm_projector_type": "linear"}, "mm_projector_type = 'linear' .*mlp2x_gelu"),
    ({"mm_newline_position": "frame"}, "mm_newline_position = 'frame' .*grid"),
    ({"mm_spatial_pool_mode": "max"}, "mm_spatial_pool_mode = 'max' .*bilinear"),
    ({"image_aspect_ratio": "square"}, "image_aspect_ratio = 'square' .*anyres_max_N"),
    ({"image_grid_pinpoints": [[70, 72]]}, "image_grid_pinpoints = .*multiples of 72"),
    ({"num_hidden_layers": "four"}, "num_hidden_layers = 'four' .* an integer"),
    ({"num_key_value_heads": 3}, "num_kv_heads = 3 does not divide num_heads = 4"),
    ({"quantization_config": {"bits": 4}}, "quantization_config = .*supported: null"),
    ({"use_sliding_window": True}, "use_sliding_window = True"),
]


@pytest.mark.parametrize(("change", "message"), VALUES, ids=lambda v: str(v)[:30])
def test_config_values(change, message, vica, tmp_path):
    source = edited(vica, tmp_path / "source", **change)
    for error in (
        refused(source, tmp_path),
        run("generate", checkpoint=source, question="What?").line,
    ):
        assert re.search(message, error) and f"{source}/config.json" in error


# -------------------------------------------------- folders of another kind
def test_folders_that_are_no_checkpoint(vica, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder, message in (
        (empty, "no config.json"),
        (vica.parent, "no config.json"),  # a golden folder, not its checkpoint
        (vica / "config.json", "not a folder"),
        (tmp_path / "absent", "no such folder"),
        ("nkkbr/ViCA2", "the hub is out of reach or HF_HUB_OFFLINE is set"),
    ):
        for error in (
            refused(folder, tmp_path),
            run("generate", checkpoint=folder, question="What?").line,
            run("inspect_params", checkpoint=folder).line,
        ):
            assert message in error and str(folder) in error


def test_a_component_where_a_model_is_needed(vica, tmp_path):
    """In HF form and in ours; one more family than ``--hiera`` takes, too."""
    rows = safetensors.numpy.load_file(vica / WEIGHTS)
    language = {n: x for n, x in rows.items() if "layers" in n and "vision" not in n}
    for name in ("model.embed_tokens.weight", NORM, "lm_head.weight"):
        language[name] = rows[name]
    source = edited(vica, tmp_path / "source", model_type="qwen2")
    safetensors.numpy.save_file(language, source / WEIGHTS)
    ask = {"question": "What?"}
    line = run("generate", checkpoint=source, **ask).line
    assert "family qwen2, but vica_qwen or llava_qwen is needed" in line
    assert "family qwen2, but hiera or sam2" in refused(vica, tmp_path, hiera=source)
    native = tmp_path / "native"
    assert run("convert_checkpoint", source=source, target=native).code == 0
    assert "single tower" in run("generate", checkpoint=native, **ask).line
    assert "no HF form" in refused(native, tmp_path, to="hf")


def test_conversions_that_make_no_sense(vica, vica2, native, tmp_path):
    assert "--to=hf takes a native checkpoint" in refused(vica, tmp_path, to="hf")
    assert "native checkpoint already" in refused(native, tmp_path)
    both = refused(native, tmp_path, hiera=vica2, to="hf")
    assert "leave out --to=hf" in both
    assert "llava_qwen is needed" in refused(vica2, tmp_path, hiera=vica2)
    assert "hiera or sam2 is needed" in refused(vica, tmp_path, hiera=vica2)
    assert "no such folder" in refused(vica, tmp_path, hiera=tmp_path / "absent")
    assert "--dtype" in refused(vica, tmp_path, dtype="float8")
    assert "'tow'" in refused(vica, tmp_path, "--tow=hf")
    assert "--source is missing or empty" in refused("", tmp_path)
    assert "--target is missing" in run("convert_checkpoint", source=vica).line


def test_a_target_that_is_taken(vica, native, tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine.txt").write_text("mine")
    for source, options in ((vica, {}), (native, {"to": "hf"})):
        for target, message in (
            (tmp_path / "target", "exists and is not an empty folder"),
            (tmp_path / "target" / "mine.txt", "exists and is not an empty folder"),
            (tmp_path / "target" / "mine.txt" / "x", "cannot write here"),
        ):
            result = run("convert_checkpoint", source=source, target=target, **options)
            assert f"{target}" in result.line and message in result.line
    assert [p.name for p in tmp_path.rglob("*")] == ["target", "mine.txt"]


def test_ctrl_c_in_a_conversion(vica, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointWriter, "finish", interrupt)
    result = run("convert_checkpoint", source=vica, target=tmp_path / "target")
    assert (result.code, result.err) == (130, "error: interrupted\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["leaf", "part", "manifest", "version", "key"])
def test_a_damaged_native_checkpoint(damage, native, tmp_path):
    source = shutil.copytree(native, tmp_path / "native")
    if damage == "leaf":
        largest = max(
            (p for p in (source / "params").rglob("*") if p.is_file()),
            key=lambda path: path.stat().st_size,
        )
        data = bytearray(largest.read_bytes())
        data[len(data) // 2] ^= 0x10
        largest.write_bytes(data)
        message = "checksum"
    elif damage == "part":
        shutil.rmtree(source / "params" / "part-00000")
        message = "part-00000"
    elif damage == "manifest":
        cut("manifest.json", 0.5)(source)
        message = "manifest.json: cannot be read"
    elif damage == "version":
        edit_json(source / "manifest.json", format_version=99)
        message = "format version 99"
    else:
        edit_json(source / "manifest.json", colour="blue")
        message = "no field 'colour'"
    for error in (
        run("generate", checkpoint=source, question="What?").line,
        refused(source, tmp_path, to="hf"),
    ):
        assert message in error and str(source) in error


# ------------------------------------------------------------------- videos
@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Path:
    """A folder of things that are no whole videos."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "text.mp4").write_text("not a video\n" * 50)
    (folder / "empty.mp4").touch()
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))
    (folder / "folder").mkdir()
    (folder / "folder" / "notes.txt").write_text("no image")
    sizes = folder / "sizes"
    sizes.mkdir()
    for i, frame in enumerate(pictures(8)):
        Image.fromarray(frame[: 64 - i]).save(sizes / f"{i}.png")
    shutil.copytree(sizes, folder / "cut")
    cut("3.png", 0.5)(folder / "cut")
    write_video(folder / "none.mp4", 0, movflags="empty_moov+frag_keyframe")
    with av.open(str(folder / "sound.mp4"), "w") as file:
        sound = file.add_stream("aac", rate=44100)
        samples = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.rate, frame.pts = 44100, 0
        file.mux(sound.encode(frame))
        file.mux(sound.encode())
    whole = write_video(folder / "whole.mp4", 24, movflags="faststart").read_bytes()
    (folder / "short.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    garbled = bytearray(whole)
    start = whole.index(b"mdat") + 4
    middle = start + (len(whole) - start) // 2
    garbled[middle : middle + 200] = np.random.default_rng(1).bytes(200)
    (folder / "garbled.mp4").write_bytes(garbled)
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.mp4", "no such file"),
        ("text.mp4", "no video, or too damaged to open"),
        ("empty.mp4", "no video, or too damaged to open"),
        ("noise.mp4", "no video, or too damaged to open"),
        ("folder", "a folder without image files"),
        ("sizes", r"1\.png: 96x63 pixels, the frames before it 96x64"),
        ("cut", r"3\.png: .*truncated|1\.png: 96x63"),
        ("none.mp4", "holds no frames"),
        ("sound.mp4", "no video stream"),
        ("short.mp4", r"frame \d+ \(.* s\) of 24 cannot be decoded .* cut short"),
        ("garbled.mp4", r"frame \d+ \(.* s\) of 24 cannot be decoded .* damaged"),
    ],
)
@pytest.mark.parametrize("reader", ["auto", "pyav"])
def test_videos(name, message, reader, broken, vica, generate):
    asked = {"checkpoint": vica, "question": "What?", "frames": 8, "reader": reader}
    result = generate(video=broken / name, **asked)
    assert re.search(message, result.line) and str(broken / name) in result.line
    assert result.out == ""


def test_images(broken, vica, generate):
    asked = {"checkpoint": vica, "question": "What?"}
    for file, message in (
        (broken / "absent.png", "no such file"),
        (broken / "text.mp4", "not a readable image"),
        (broken / "cut" / "3.png", "truncated"),
        (f"{broken / 'sizes' / '0.png'},{broken / 'noise.mp4'}", "noise.mp4: not a"),
    ):
        assert message in generate(image=file, **asked).line
    png = broken / "sizes" / "0.png"
    assert "use --image" in generate(video=png, **asked).line
    both = generate(video=broken / "whole.mp4", image=png, **asked).line
    assert "--video or --image, not both" in both
    for flag in ("--video=", "--image=", f"--image={png},"):
        assert "one is empty" in generate(flag, **asked).line


# ----------------------------------------------------------------- questions
@pytest.mark.parametrize("question", ["", "  \n\t"])
def test_an_empty_question(question, vica, video, generate):
    asked = {"checkpoint": vica, "video": video}
    assert re.search("question is.* empty", generate(question=question, **asked).line)


def test_no_question(vica, generate):
    assert "--question is missing" in generate(checkpoint=vica).line


def test_tags_that_are_not_the_media(vica, video, generate):
    asked = {"checkpoint": vica}
    for question, count in (("<image>\nWhat?", 1), ("<image> and <image>", 2)):
        line = generate(question=question, **asked).line
        assert f"has {count} <image> tag(s) but 0 video(s)/image(s) are given" in line
    line = generate(question="<image><image> What?", video=video, **asked).line
    assert "has 2 <image> tag(s) but 1 video(s)" in line
    line = generate("--raw_prompt", question="What?", video=video, **asked).line
    assert "has 0 <image> tag(s) but 1 video(s)" in line


def test_prompts_that_contradict_themselves(vica, video, generate):
    asked = {"checkpoint": vica, "question": "What?"}
    raw = ["--raw_prompt", "--option=A. chair"]
    assert "taken as typed" in generate(*raw, **asked).line
    style = ["--raw_prompt", "--prompt_style=vica_readme"]
    assert "leave out --prompt_style" in generate(*style, **asked).line
    timed = asked | {"question": "<image>\nWhat?", "video": video}
    raw = ["--raw_prompt", "--time_instruction"]
    assert "taken as typed" in generate(*raw, **timed).line
    assert "give a video" in generate("--time_instruction", **asked).line
    assert "no time instruction" in generate("--time_instruction", **timed).line
    streamed = generate("--stream", "--output=json", **asked).line
    assert "leave out --output=json" in streamed


def test_a_prompt_past_the_context(vica, video, tmp_path, generate):
    """The message states the numbers: 96 visual tokens and 35 of text."""
    asked = {"video": video, "question": "How many?", "frames": 8}
    source = edited(vica, tmp_path / "131", tokenizer_model_max_length=131)
    line = generate(checkpoint=source, **asked).line
    for number in ("131 tokens", "96 visual + 35 text", "context length of 131"):
        assert number in line
    source = edited(vica, tmp_path / "90", tokenizer_model_max_length=90)
    line = generate(checkpoint=source, **asked).line
    assert "8 frames make 96 visual tokens (96 SigLIP + 0 Hiera)" in line
    assert "context length of 90" in line
    line = generate(checkpoint=vica, question="chair " * 33_000).line
    assert "past the context length of 32,768" in line


# ------------------------------------------------------------------- settings
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--frames=0", "num_frames must be >= 1, got 0"),
        ("--frames=many", "--frames=many"),
        ("--fps=0", "fps must be a positive number, got 0"),
        ("--fps=nan", "fps must be a positive number, got nan"),
        ("--source_fps=-2", "source_fps must be a positive number"),
        ("--max_new_tokens=0", "max_new_tokens must be >= 1, got 0"),
        ("--temperature=-1", "temperature must be >= 0, got -1"),
        ("--top_k=-1", "top_k must be >= 0, got -1"),
        ("--top_p=0", "top_p must lie in"),
        ("--top_p=1.5", "top_p must lie in"),
        ("--repetition_penalty=0", "repetition_penalty must be > 0, got 0"),
        ("--seed=-1", "--seed=-1"),
        (f"--seed={2**70}", "--seed="),
        ("--prompt_style=mine", "plain|vica_readme"),
        ("--dtype=float16", "float32|bfloat16"),
        ("--mesh=fsdp:2,tensor:4", "needs 8 devices, there are"),
        ("--mesh=rows:2", "cannot read 'rows:2'"),
        ("--mesh=fsdp:0", "cannot read 'fsdp:0'"),
        ("--mesh=fsdp:2,fsdp:2", "each once"),
        ("--mesh=", "no axis in ''"),
        ("--no_such_flag", "no_such_flag"),
        ("stray", "unexpected argument 'stray'"),
        ("--token_ratio=4,4,2", "this model has no Hiera stream"),
    ],
)
def test_settings(flag, message, vica, video, generate):
    if "devices" in message and len(jax.devices()) >= 8:
        pytest.skip("here are 8 devices")
    asked = {"checkpoint": vica, "question": "What?", "video": video}
    assert message in generate(flag, **asked).line


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        ("3,4,2", "N_hiera = 3 does not divide 8 frames"),
        ("16,4,2", "N_hiera = 16 does not divide 8 frames"),
        ("0,4,2", "N_hiera = 0 does not divide 8 frames"),
        ("4,5,2", "output_stage must lie in 1..4, got 5"),
        ("4,0,2", "output_stage must lie in 1..4, got 0"),
        ("4,3,2", "Hiera's stage 3 is 64 wide, but the projector of this checkpoint"),
        ("4,4,0", "pool_stride must be at least 1, got 0"),
        ("4,4", "give N_hiera,S_stage,s_pool"),
        ("4,4,2,1", "give N_hiera,S_stage,s_pool"),
        ("4,x,2", "give N_hiera,S_stage,s_pool"),
        ("4,-4,2", "give N_hiera,S_stage,s_pool"),
    ],
)
def test_token_ratios(ratio, message, vica2, video, generate):
    asked = {"checkpoint": vica2, "question": "What?", "video": video, "frames": 8}
    assert message in generate(token_ratio=ratio, **asked).line


def test_a_token_ratio_past_the_context(vica2, video, tmp_path, generate):
    source = edited(vica2, tmp_path / "200", tokenizer_model_max_length=200)
    asked = {"checkpoint": source, "question": "What?", "video": video, "frames": 8}
    line = generate(token_ratio="8,4,1", **asked).line
    assert "256 visual tokens (96 SigLIP + 160 Hiera)" in line
    assert "context length of 200" in line


# -------------------------------------------------------------------- adapters
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("absent", None, "no such adapter folder"),
        ("empty", None, "no adapter_config.json"),
        ("dora", {"use_dora": True}, "use_dora = True is not supported"),
        ("rank", {"r": 5}, "expected shape [5, 64], found [4, 64]"),
        ("kind", {"peft_type": "IA3"}, "peft_type = 'IA3' is not supported"),
        ("module", "model.layers.9.self_attn.q_proj", "not a weight of this model"),
        ("cut", None, "truncated"),
        ("pickle", None, "is a pickle, which is never read"),
    ],
)
def test_adapters(name, change, message, vica, tmp_path):
    folder = tmp_path / name
    if name != "absent":
        folder.mkdir()
    if name == "pickle":
        (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    elif name not in ("absent", "empty"):
        module = change if isinstance(change, str) else "model.layers.0.mlp.up_proj"
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none"}
        (folder / "adapter_config.json").write_text("{}")
        more = change if isinstance(change, dict) else {}
        edit_json(folder / "adapter_config.json", **config | more)
        pair = {"lora_A": np.ones((4, 64)), "lora_B": np.ones((128, 4))}
        weights = {
            f"base_model.model.{module}.{part}.weight": x.astype(np.float32)
            for part, x in pair.items()
        }
        safetensors.numpy.save_file(weights, folder / "adapter_model.safetensors")
    if name == "cut":
        cut("adapter_model.safetensors", 0.5)(folder)
    result = run("generate", checkpoint=vica, question="What?", adapter=folder)
    assert message in result.error and str(folder) in result.error


# ---------------------------------------------------------------------- memory
@pytest.mark.parametrize(
    ("step", "part"),
    [
        ("assistant.encode", "the vision encoders"),
        ("assistant.prefill", "prefill"),
        ("loop.decode", "decoding"),
    ],
)
def test_out_of_memory(step, part, vica, video, generate, monkeypatch):
    def burst(*_, **__):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 99999 bytes.\n"
        )

    monkeypatch.setattr(f"vica_jax.decode.{step}", burst)
    asked = {"checkpoint": vica, "video": video, "question": "How many?"}
    line = generate(frames=8, max_new_tokens=4, **asked).line
    assert f"out of device memory in {part}: try --frames=4 instead of 8" in line
