"""What a run's folder holds, by name."""

from pathlib import Path

RECIPE = "recipe.json"
QUESTIONS = "questions.jsonl"
ANSWERS = "answers"  # a folder with a file per shard
FRAMES = "frames"  # a folder of contact sheets
TIMING = "timing.jsonl"
BLACK_FRAMES = "black_frames"  # key of a recipe: true where no video was shown


def has_answers(workdir: Path) -> bool:
    """Whether any shard has written a line."""
    return any(file.stat().st_size for file in (workdir / ANSWERS).glob("*.jsonl"))
