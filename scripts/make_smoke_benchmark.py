"""Write a small benchmark: films of coloured shapes, questions on them, truths.

    python -m scripts.make_smoke_benchmark --target=DIR [--videos=20] [--questions=200]
        [--seed=0] [--benchmark=vsibench|vstibench|scanqa] [--form=parquet|jsonl]
        [--broken]

A folder as the benchmark is published, to try an evaluation on:

    vsibench   test.parquet with the column pruned, or test.jsonl and pruned_ids.txt;
               <dataset>/<scene_name>.mp4 in three datasets
    vstibench  test.parquet or test.jsonl; ScanNet/videos/val/<scene_name>.mp4
    scanqa     scanqa_val_llava_style.json; videos/<scene_name>.mp4

Films have 24 to 60 frames of 96x72 pixels. Questions are of all types in turn, as many
on every film; their ids are not in order. Truths of VSI-Bench and ScanQA follow from
what is shown. The same flags write the same bytes. With --broken rows and a video are
added that no evaluation can answer, and each is named.
"""

from absl import flags

from scripts import cli
from scripts.smoke_benchmark import write_benchmark
from scripts.smoke_files import new_folder

FLAGS = flags.FLAGS
flags.DEFINE_string("target", None, "folder to write, new or empty")
flags.DEFINE_integer("videos", 20, "video files", lower_bound=1)
flags.DEFINE_integer("questions", 200, "questions on all of them", lower_bound=1)
flags.DEFINE_integer("seed", 0, "another seed shows other scenes", lower_bound=0)
flags.DEFINE_enum(
    "benchmark", "vsibench", ["vsibench", "vstibench", "scanqa"], "whose form"
)
flags.DEFINE_enum(
    "form", None, ["parquet", "jsonl"], "of the rows; parquet unless it is scanqa"
)
flags.DEFINE_bool("broken", False, "add rows and a video that cannot be answered")


def main() -> None:
    benchmark, form = FLAGS.benchmark, FLAGS.form
    if benchmark == "scanqa" and form:
        cli.fail(
            f"--form={form}: scanqa is published as one JSON file: leave --form out"
        )
    with new_folder(FLAGS.target) as folder:
        write_benchmark(
            folder,
            benchmark,
            form,
            FLAGS.seed,
            FLAGS.videos,
            FLAGS.questions,
            FLAGS.broken,
        )


if __name__ == "__main__":
    cli.run(main, required=("target",), compiles=False)
