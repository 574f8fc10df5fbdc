"""Writers of data sets: ViCA-322K's form, VSI-Bench's form, pairs of image and caption.

    <out>/<dataset>/base/<task>.json       questions, LLaVA records, JSON lists
    <out>/<dataset>/complex/<kind>.json    dialogues, descriptions, ...
    <out>/<dataset>/thinking.json          answers with the thoughts before them
    <out>/mixture.yaml, thinking.yaml      those files as training lists them
    <out>/videos/<dataset>/<scene>.mp4     what the records' ``video`` counts from
    <out>/vsibench/test.parquet            questions as the benchmark has them
    <out>/vsibench/<dataset>/<scene>.mp4   and its videos, hard links to the others
    <out>/captions.json, images/           stage 1: an image and what it shows

Records are written as they come: nothing is held but VSI-Bench's rows, some thousands
at a time. A file is complete or not there. The same records in the same order give the
same bytes.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from vica_jax.files import replacing, write_text
from vica_jax.world.scene import Scene, SceneError

Record = dict[str, Any]

# A question type of VSI-Bench (or the triangle's): the file of ViCA-322K it stands in.
TASK_FILES = {
    "object_counting": "object_count",
    "object_rel_distance": "object_relative_distance",
    "object_size_estimation": "object_size_estimation",
    "object_abs_distance": "object_abs_distance",
    "obj_appearance_order": "obj_appearance_order",
    "room_size_estimation": "room_size",
    "triangular_positional_relationship": "triangular_positional_relationship",
    "object_rel_direction_easy": "object_relative_direction",
    "object_rel_direction_medium": "object_relative_direction",
    "object_rel_direction_hard": "object_relative_direction",
    "route_planning": "route_planning",
}
BASE = tuple(dict.fromkeys(TASK_FILES.values()))
COMPLEX = (
    "conversation",
    "important_daily_necessities",
    "furniture",
    "usage",
    "wheelchair_user",
    "spatial_description",
)
FILES = (
    *(f"base/{name}" for name in BASE),
    *(f"complex/{name}" for name in COMPLEX),
    "thinking",
)
# What stands beside the datasets' folders, of these writers and ``make``'s.
OUR_NAMES = frozenset(
    {
        "mixture.yaml",
        "thinking.yaml",
        "stage2.yaml",
        "captions.json",
        "test.parquet",
        "world.json",
        "videos",
        "vsibench",
        "images",
        "scenes",
        "films",
        "parts",
    }
)
ROWS_AT_ONCE = 4096  # of a parquet row group


class SceneRecords(NamedTuple):
    """What is written of one scene; JSON values only, so that it can wait in a file.

    ``files`` maps names of ``FILES`` to records, ``rows`` are VSI-Bench's without ids.
    """

    dataset: str
    scene: str
    files: dict[str, list[Record]]
    rows: list[Record]


def make_record(
    turns: Sequence[tuple[str, str]], *, video: str | None = None, **keys: Any
) -> Record:
    """A LLaVA record of ``(asked, answered)`` turns.

    The first question gets the ``<image>`` tag if none has it and a medium is named:
    ``video``, or ``image`` among ``keys``, which come first in the record.
    """
    media = {"video": video} if video is not None else {}
    said = []
    for place, (asked, answered) in enumerate(turns):
        if place == 0 and "<image>" not in asked and (media or "image" in keys):
            asked = f"<image>\n{asked}"
        said.append({"from": "human", "value": asked})
        said.append({"from": "gpt", "value": answered})
    return {**keys, **media, "conversations": said}


def video_name(scene: Scene) -> str:
    """The path of a scene's video below a videos folder: ``<dataset>/<scene>.mp4``.

    Raises:
      SceneError: a name that is no file name, or a dataset called like a file or folder
        of our own.
    """
    if scene.dataset.lower() in OUR_NAMES:
        raise SceneError(
            f"scene {scene.name!r:.80}: its dataset {scene.dataset!r} would take the "
            "place of a file or folder of our own: rename it"
        )
    for what, name in (("dataset", scene.dataset), ("scene", scene.name)):
        path = PurePosixPath(name)
        if len(path.parts) != 1 or name in (".", "..") or not name.isprintable():
            raise SceneError(
                f"scene {scene.name!r:.80}: its {what} {name!r:.60} is no file name: "
                "rename it"
            )
    return f"{scene.dataset}/{scene.name}.mp4"


def place_video(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Put a video at ``target``: a hard link where the disk allows it, else a copy."""
    source, target = Path(source), Path(target)
    if target.exists() and target.samefile(source):
        return
    with replacing(target) as partial:
        partial.unlink()
        try:
            os.link(source, partial)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(source, partial)


# ----------------------------------------------------------------------- JSON lists
class JsonLists(contextlib.ExitStack):
    """JSON lists below a folder, each begun when its first record comes.

    A context: at its end every file takes its place; an exception leaves none. No file
    stays open in between, so that there may be any number.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        super().__init__()
        self.folder = Path(folder)
        self.counts: dict[str, int] = {}
        self._partial: dict[str, Path] = {}

    def add(self, name: str, records: Iterable[Record]) -> None:
        """Append records to ``<folder>/<name>``."""
        texts = [json.dumps(record, ensure_ascii=False) for record in records]
        if not texts:
            return
        first = name not in self._partial
        if first:
            partial = self.enter_context(replacing(self.folder / name))
            self._partial[name] = partial
            self.push(lambda *error: _end_list(partial) if error[0] is None else None)
        with self._partial[name].open("a", encoding="utf-8", newline="\n") as file:
            file.write("[\n" if first else ",\n")
            file.write(",\n".join(texts))
        self.counts[name] = self.counts.get(name, 0) + len(texts)


def _end_list(path: Path) -> None:
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write("\n]\n")


class VicaFiles(JsonLists):
    """ViCA-322K's form: ``add_scene`` for each scene, in the order that is to be."""

    def add_scene(self, records: SceneRecords) -> None:
        for name, found in records.files.items():
            self.add(f"{records.dataset}/{name}.json", found)

    def finish(self) -> None:
        """Write ``mixture.yaml`` and ``thinking.yaml`` of what was added; call it when
        the files are in their places."""
        datasets = list(dict.fromkeys(name.split("/")[0] for name in self.counts))
        there = [
            f"{dataset}/{name}.json"
            for dataset in datasets
            for name in FILES
            if f"{dataset}/{name}.json" in self.counts
        ]
        thinking = [name for name in there if name.endswith("/thinking.json")]
        questions = [name for name in there if name not in thinking]
        for target, names in (
            ("mixture.yaml", questions),
            ("thinking.yaml", thinking),
        ):
            if names:
                write_text(self.folder / target, mixture_text(names))


def mixture_text(names: Iterable[str]) -> str:
    """A mixture that takes every record of some JSON files."""
    lines = ["datasets:"]
    for name in names:
        # JSON's text in quotes is YAML's too.
        lines.append(f"  - json_path: {json.dumps(name, ensure_ascii=False)}")
        lines.append("    sampling_strategy: all")
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------ VSI-Bench
class BenchmarkFile(contextlib.ExitStack):
    """VSI-Bench's ``test.parquet``; rows get their ids, 0, 1, ..., as they come."""

    def __init__(self, folder: str | os.PathLike[str]):
        super().__init__()
        self.folder = Path(folder)
        self.count = 0
        self._waiting: list[Record] = []
        self._writer: Any = None

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            self._waiting.append({**row, "id": self.count})
            self.count += 1
            if len(self._waiting) == ROWS_AT_ONCE:
                self._write()

    def __exit__(self, *error: Any) -> bool | None:
        try:
            if error[0] is None and self._waiting:
                self._write()
        except BaseException as failed:
            super().__exit__(type(failed), failed, failed.__traceback__)
            raise
        return super().__exit__(*error)

    def _write(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        text = pa.string()
        schema = pa.schema(
            [("id", pa.int64())]
            + [
                (name, text)
                for name in (
                    "dataset",
                    "scene_name",
                    "question_type",
                    "question",
                    "ground_truth",
                )
            ]
            + [("options", pa.list_(text))]
        )
        if self._writer is None:
            partial = self.enter_context(replacing(self.folder / "test.parquet"))
            writer = pq.ParquetWriter(partial, schema)
            self._writer = self.enter_context(writer)
        self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=schema))
        self._waiting = []


# -------------------------------------------------------------------------- stage 1
def write_image(path: str | os.PathLike[str], rgb: np.ndarray) -> None:
    """One frame ``uint8[H,W,3]`` as PNG."""
    from PIL import Image

    with replacing(path) as partial:
        Image.fromarray(rgb).save(partial, format="PNG")
