"""The files that name unusable samples, when a run goes on."""

import json
from pathlib import Path

from vica_jax.train.sample_log import SampleLog


def named(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def test_samples_past_the_checkpoint_come_again(tmp_path: Path):
    entries = [{"id": f"s{n}", "consumed": n} for n in (4, 8, 12)]
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    # The second belongs to a process of a run on two, which goes on alone.
    files = [tmp_path / "bad_samples.jsonl", tmp_path / "bad_samples.1.jsonl"]
    for file in files:
        file.write_text(text + '{"id": "torn')
    other = tmp_path / "bad_samples.notes.jsonl"
    other.write_text(text)
    log = SampleLog(tmp_path, max_share=0.1, samples=20, consumed=8, bad=2)
    assert [named(file) for file in files] == [["s4", "s8"]] * 2
    assert named(other) == ["s4", "s8", "s12"]
    assert log.bad == 2
    assert not [*tmp_path.glob("*partial*")]
