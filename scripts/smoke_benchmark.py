"""A small benchmark in the published forms: films of coloured shapes, and questions.

``scripts.make_smoke_benchmark`` is its command and says what is written.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scripts.smoke_files import write_video
from scripts.smoke_questions import VSIBENCH, VSTIBENCH, ask_scanqa, ask_vsti
from scripts.smoke_scenes import Scene, make_scene

SIZE, FRAMES = (96, 72), (24, 61)  # of a film; frames from and below
FILM, ASKED, ROWS = range(100, 103)  # of seeds
LOST, CUT = "scene9998_00", "scene9999_00"  # with --broken: no video, and half of one
VIDEOS = {
    "vsibench": "{film.dataset}/{film.name}.mp4",
    "vstibench": "ScanNet/videos/val/{film.name}.mp4",
    "scanqa": "videos/{film.name}.mp4",
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Film:
    dataset: str
    name: str
    scene: Scene


def make_film(benchmark: str, seed: int, number: int) -> Film:
    """Shapes that appear one after the other; VSI-Bench's datasets take turns."""
    random = np.random.default_rng([seed, FILM, number])
    scene = make_scene(seed, FILM, number, still=False, fewest=3)
    first = random.permutation(len(scene.shapes)) / 5
    shapes = [
        replace(shape, appears=float(at))
        for shape, at in zip(scene.shapes, first, strict=True)
    ]
    frames = int(random.integers(*FRAMES))
    scene = replace(scene, size_wh=SIZE, frames=frames, shapes=tuple(shapes))
    which = number % 3 if benchmark == "vsibench" else 1
    names = (f"{41000000 + number}", f"scene{number:04}_00", f"{number:010x}")
    return Film(("arkitscenes", "scannet", "scannetpp")[which], names[which], scene)


# ----------------------------------------------------------------- rows of each form
def place_of(benchmark: str, dataset: str, name: str) -> Row:
    """The columns that name a video."""
    if benchmark == "scanqa":
        return {"video": f"{dataset}/{name}"}
    row = {"dataset": dataset, "scene_name": name}
    if benchmark == "vstibench":
        row["video_path"] = f"ScanNet/videos/val/{name}.mp4"
    return row


def make_row(
    benchmark: str, film: Film, number: int, random: np.random.Generator
) -> Row:
    """Question ``number`` as its benchmark has it, without an id."""
    row: Row = place_of(benchmark, film.dataset, film.name)
    if benchmark == "scanqa":
        question, answers = ask_scanqa(film.scene, random)
        asked = f"<image> {question} Answer the question simply."
        row["conversations"] = [
            {"value": asked, "from": "human"},
            {"value": answers[0], "from": "gpt"},
        ]
        told = {"dataset": "scanQA", "question_type": "unknow", "answers": answers}
        row["metadata"] = told
        return row
    if benchmark == "vstibench":
        kind = list(VSTIBENCH)[number % len(VSTIBENCH)]
        return row | {"question_type": kind} | ask_vsti(kind, film.scene, random)
    kind = list(VSIBENCH)[number % len(VSIBENCH)]
    return row | {"question_type": kind} | VSIBENCH[kind](film.scene, random)


def make_rows(benchmark: str, seed: int, films: list[Film], count: int) -> list[Row]:
    """Rows in no order of films or ids; VSI-Bench's tell whether they are pruned."""
    random = np.random.default_rng([seed, ROWS])
    ids, places = random.permutation(count), random.permutation(count)
    rows = []
    for number in range(count):
        film = films[number * len(films) // count]
        drawn = np.random.default_rng([seed, ASKED, number])
        row_id: Any = int(ids[number])
        if benchmark == "scanqa":
            row_id = f"scanqa_val-{film.name.split('_')[0]}-{row_id}_0"
        row = {"id": row_id} | make_row(benchmark, film, number, drawn)
        if benchmark == "vsibench":
            row["pruned"] = bool(random.integers(2))
        rows.append(row)
    return [rows[k] for k in places]


def add_broken(benchmark: str, rows: list[Row]) -> list[str]:
    """Rows that no evaluation answers, the last of them in front; what they are."""
    good, said = rows[:3], []

    def add(what: str, row: Row, **changes: Any) -> None:
        number = len(rows)
        fresh = f"scanqa_val-broken-{number}_0" if benchmark == "scanqa" else number
        rows.append(row | {"id": fresh} | changes)
        said.append(f"id {rows[-1]['id']}: {what}")

    add(f"no video {LOST}.mp4", good[0], **place_of(benchmark, "scannet", LOST))
    for row in good[1:] or good:
        place = place_of(benchmark, "scannet", CUT)
        add(f"the video {CUT}.mp4 is cut off", row, **place)
    add("the id stands twice", good[-1], id=good[0]["id"])
    if benchmark == "scanqa":
        add("no answers", good[0], metadata=good[0]["metadata"] | {"answers": []})
    else:
        add("unknown question type", good[0], question_type="object_weight")
        choice = {"question_type": "object_rel_distance", "ground_truth": "A"}
        if benchmark == "vstibench":
            choice = {"question_type": "camera_obj_rel_dist_v1", "mc_answer": "A"}
        add("no options to choose from", good[0], options=[], **choice)
    rows.insert(0, rows.pop())
    return said


# ------------------------------------------------------------------ what is written
def write_rows(folder: Path, benchmark: str, form: str | None, rows: list[Row]) -> str:
    """The annotation files; the name of the one that holds the rows."""
    if benchmark == "scanqa":
        name = "scanqa_val_llava_style.json"
        (folder / name).write_text(f"{json.dumps(rows, indent=1)}\n")
    elif form == "jsonl":
        name = "test.jsonl"
        pruned = [f"{row['id']}\n" for row in rows if row.get("pruned")]
        rows = [{key: row[key] for key in row if key != "pruned"} for row in rows]
        (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        if benchmark == "vsibench":
            (folder / "pruned_ids.txt").write_text("".join(pruned))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        name, text = "test.parquet", pa.string()
        kinds = {"id": pa.int64(), "options": pa.list_(text), "pruned": pa.bool_()}
        schema = pa.schema([(key, kinds.get(key, text)) for key in rows[0]])
        rows = [row | {"ground_truth": str(row["ground_truth"])} for row in rows]
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / name)
    return name


def write_benchmark(
    folder: Path,
    benchmark: str,
    form: str | None,
    seed: int,
    videos: int,
    questions: int,
    broken: bool = False,
) -> None:
    """The whole benchmark into an existing folder; says what it writes."""
    films = [make_film(benchmark, seed, number) for number in range(videos)]
    for film in films:
        write_film(folder, benchmark, film)
    rows = make_rows(benchmark, seed, films, questions)
    wrong = add_broken(benchmark, rows) if broken else []
    name = write_rows(folder, benchmark, form, rows)
    print(f"  {name}: {len(rows)} rows on {videos} videos")
    if wrong:
        path = write_film(
            folder, benchmark, replace(films[0], dataset="scannet", name=CUT)
        )
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
    for what in wrong:
        print(f"  broken: {what}")


def write_film(folder: Path, benchmark: str, film: Film) -> Path:
    path = folder / VIDEOS[benchmark].format(film=film)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, film.scene)
    return path
