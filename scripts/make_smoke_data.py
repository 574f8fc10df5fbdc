"""Write a small LLaVA-format data set: moving coloured shapes and questions on them.

    python -m scripts.make_smoke_data --target=DIR [--seed=0] [--videos=10]
        [--images=10] [--folders=3]

Real files, so that everything a run does to its data is done to these: h264 videos,
folders of frames, PNG images, records with one image, several, a video or none, of one
turn or more, and one mixture for each stage. Answers follow from what is shown. The
broken records name files that are missing, cut off or something else, or are no proper
records. The same flags write the same bytes. Paths count from DIR, which is
image_folder and video_folder at once:

    --config.data.mixture=DIR/stage3.json --config.data.image_folder=DIR
    --config.data.video_folder=DIR
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from scripts import cli
from scripts.smoke_files import new_folder, write_video
from scripts.smoke_scenes import (
    Pair,
    Scene,
    ask,
    ask_thinking,
    ask_words,
    describe,
    make_scene,
)

FLAGS = flags.FLAGS
flags.DEFINE_string("target", None, "folder to write, new or empty")
flags.DEFINE_integer("seed", 0, "another seed shows other scenes", lower_bound=0)
flags.DEFINE_integer("videos", 10, "video files", lower_bound=1)
flags.DEFINE_integer("images", 10, "images", lower_bound=2)
flags.DEFINE_integer("folders", 3, "folders of frames", lower_bound=1)

STAGE2 = {  # sources of stage2.yaml
    "captions.json": "random:50%",
    "questions.json": "all",
    "pairs.json": "first:3",
    "talks.json": "end:50%",
    "clips.json": "first:25%",
    "words.jsonl": "random:5",
}
HELD_OUT = 3  # videos and images that only validation.json names
VIDEO, STILL, FOLDER, HELD_VIDEO, HELD_STILL, WORDS, QUESTIONS = range(7)  # of seeds

Record = dict[str, Any]


# ----------------------------------------------------------------- what is written
def make_record(name: str, pairs: Sequence[Pair], **media: Any) -> Record:
    """A LLaVA record; one ``<image>`` line per medium before the first question."""
    shown = sum(len(m) if isinstance(m, list) else 1 for m in media.values())
    turns = []
    for number, (question, answer) in enumerate(pairs):
        tags = "<image>\n" * shown if number == 0 else ""
        turns.append({"from": "human", "value": tags + question})
        turns.append({"from": "gpt", "value": answer})
    return {"id": name, **media, "conversations": turns}


# --------------------------------------------------------------------- what is kept
def write_image(path: Path, scene: Scene) -> str:
    scene.draw(0).save(path)
    return f"{path.parent.name}/{path.name}"


def write_folder(path: Path, scene: Scene) -> str:
    """A folder of PNG frames, numbered without leading zeros."""
    path.mkdir()
    for number in range(scene.frames):
        scene.draw(number).save(path / f"frame{number}.png")
    return f"{path.parent.name}/{path.name}"


class Shown:
    """One part of the data set's scenes, each with the path that records name."""

    def __init__(
        self,
        seed: int,
        part: int,
        count: int,
        write: Callable[[int, Scene], str],
        first: int = 0,
    ):
        still = part in (STILL, HELD_STILL)
        self.seed, self.part, self.key = seed, part, "image" if still else "video"
        self.scenes = [make_scene(seed, part, i, still=still) for i in range(count)]
        self.shown = [
            (scene, write(first + i, scene)) for i, scene in enumerate(self.scenes)
        ]

    def records(
        self, name: str, *, count: int | None = None, turns: int = 1
    ) -> Iterator[Record]:
        """Records with questions drawn for ``name``; scenes repeat where they must."""
        for i in range(len(self.shown) if count is None else count):
            scene, path = self.shown[i % len(self.shown)]
            random = np.random.default_rng(
                [self.seed, QUESTIONS, self.part, i, *name.encode()]
            )
            pairs = ask(scene)
            chosen = [pairs[k] for k in random.permutation(len(pairs))[:turns]]
            yield make_record(f"{name}-{i}", chosen, **{self.key: path})


def write_broken(folder: Path, video: Scene, image: Scene) -> list[Record]:
    """Files and records of which none can be learned from, each in its own way."""
    folder.mkdir()
    whole = folder / "whole.mp4"
    for name, options in (("cut.mp4", {}), ("cut_late.mp4", {"movflags": "faststart"})):
        write_video(whole, video, **options)  # faststart: the header comes first
        data = whole.read_bytes()
        (folder / name).write_bytes(data[: len(data) * 4 // 5])
    whole.unlink()
    write_image(folder / "cut.png", image)
    data = (folder / "cut.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "text.png").write_text("This is a text and no image.\n")
    (folder / "nothing.mp4").write_bytes(b"")
    (folder / "no_frames").mkdir()
    pair = ("How many shapes are there?", "Two.")
    still = write_image(folder / "good.png", image)
    records = [
        make_record("missing-video", [pair], video="broken/missing.mp4"),
        make_record("missing-image", [pair], image="broken/missing.png"),
        make_record("cut-video", [pair], video="broken/cut.mp4"),
        make_record("cut-video-data", [pair], video="broken/cut_late.mp4"),
        make_record("empty-file", [pair], video="broken/nothing.mp4"),
        make_record("empty-folder", [pair], video="broken/no_frames"),
        make_record("text-as-image", [pair], image="broken/text.png"),
        make_record("cut-image", [pair], image="broken/cut.png"),
        {"id": "no-conversations", "image": still},
        make_record("wrong-roles", [pair, pair], image=still),
        make_record("too-many-tags", [pair], image=still),
        make_record("two-media", [pair], image=still, video="broken/cut.mp4"),
    ]
    by_name = {record["id"]: record["conversations"] for record in records[9:]}
    by_name["wrong-roles"][1]["from"] = "human"
    by_name["too-many-tags"][0]["value"] = "<image>\n<image>\n" + pair[0]
    return records


def write_data(folder: Path, seed: int, videos: int, images: int, folders: int) -> None:
    """The whole data set into an existing folder; says what it writes."""
    for name in ("videos", "images", "frames", "stage2"):
        (folder / name).mkdir()

    def film(number: int, scene: Scene) -> str:
        return write_video(folder / "videos" / f"{number:03}.mp4", scene)

    def still(number: int, scene: Scene) -> str:
        return write_image(folder / "images" / f"{number:03}.png", scene)

    def walk(number: int, scene: Scene) -> str:
        return write_folder(folder / "frames" / f"{number:03}", scene)

    films = Shown(seed, VIDEO, videos, film)
    stills = Shown(seed, STILL, images, still)
    walks = Shown(seed, FOLDER, folders, walk)
    held = [
        *Shown(seed, HELD_VIDEO, HELD_OUT, film, first=videos).records("held-video"),
        *Shown(seed, HELD_STILL, HELD_OUT, still, first=images).records("held-image"),
    ]
    broken = write_broken(folder / "broken", films.scenes[0], stills.scenes[0])
    good = [*films.records("good", count=9), *stills.records("good-image", count=9)]
    words = [make_record(f"words-{i}", [ask_words(seed, WORDS, i)]) for i in range(12)]
    files = {
        "stage1.json": captions(stills),
        **stage2(films, stills, words),
        "stage3.json": [
            *films.records("spatial"),
            *films.records("spatial-two", turns=2),
            *walks.records("spatial-frames"),
        ],
        "stage4.json": [
            make_record(f"thinking-{i}", [ask_thinking(scene)], video=path)
            for i, (scene, path) in enumerate(films.shown)
        ],
        "overfit.json": [
            *films.records("overfit", count=4),
            *walks.records("overfit-frames", count=2),
            *stills.records("overfit-image", count=6),
            *words[:4],
        ],
        "validation.json": [*held, *words[-4:]],
        "broken.json": [*good[:9], *broken, *good[9:]],
        "all_bad.json": broken,
    }
    for name, records in files.items():
        write_records(folder / name, records)
        print(f"  {name:<22} {len(records):>4} records")
    listed = "".join(
        f'  - json_path: stage2/{name}\n    sampling_strategy: "{strategy}"\n'
        for name, strategy in STAGE2.items()
    )
    (folder / "stage2.yaml").write_text(f"datasets:\n{listed}")
    print(f"  {'stage2.yaml':<22} {len(STAGE2):>4} sources")
    print(
        f"  {videos + HELD_OUT} videos, {folders} folders of frames, "
        f"{images + HELD_OUT} images"
    )


def captions(stills: Shown) -> list[Record]:
    """Single images described, as LLaVA's pretraining data has them."""
    return [
        make_record(f"caption-{i}", [("Describe the image.", describe(scene))], image=p)
        for i, (scene, p) in enumerate(stills.shown)
    ]


def stage2(films: Shown, stills: Shown, words: list[Record]) -> dict[str, list[Record]]:
    """The sources of ``stage2.yaml``: every kind of record."""
    talks = list(stills.records("talk", count=6, turns=3))
    for record in talks[::2]:  # the tag at the end of its turn, as some data has it
        turn = record["conversations"][0]
        turn["value"] = turn["value"].removeprefix("<image>\n") + " <image>"
    pairs = zip(stills.shown, stills.shown[1:], strict=False)
    return {
        "stage2/captions.json": captions(stills),
        "stage2/questions.json": list(stills.records("question")),
        "stage2/pairs.json": [compare(i, *pair) for i, pair in enumerate(pairs)][:5],
        "stage2/talks.json": talks,
        "stage2/clips.json": list(films.records("clip")),
        "stage2/words.jsonl": words[:8],
    }


def compare(number: int, first: tuple[Scene, str], second: tuple[Scene, str]) -> Record:
    """Two images and which of them shows more."""
    more = len(second[0].shapes) - len(first[0].shapes)
    answer = f"The {'second' if more > 0 else 'first'}." if more else "Neither."
    question = "Which image shows more shapes?"
    return make_record(
        f"pair-{number}", [(question, answer)], image=[first[1], second[1]]
    )


def write_records(path: Path, records: list[Record]) -> None:
    """A JSON list, or one record a line for ``.jsonl``."""
    lines = [json.dumps(record) for record in records]
    text = (
        "\n".join(lines) if path.suffix == ".jsonl" else "[" + ",\n".join(lines) + "]"
    )
    path.write_text(f"{text}\n")


def main() -> None:
    with new_folder(FLAGS.target) as folder:
        write_data(folder, FLAGS.seed, FLAGS.videos, FLAGS.images, FLAGS.folders)


if __name__ == "__main__":
    cli.run(main, required=("target",))
