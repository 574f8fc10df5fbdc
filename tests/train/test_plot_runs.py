import json

import pytest
from PIL import Image

from vica_jax.errors import InputError
from vica_jax.train.curves import plot_runs


@pytest.fixture
def runs(tmp_path):
    paths = {}
    for name, keys in (("both", ("loss", "extra")), ("one", ("loss",))):
        paths[name] = tmp_path / f"{name}.jsonl"
        lines = [
            json.dumps({"step": step, **dict.fromkeys(keys, 1 / step)})
            for step in range(1, 90)
        ]
        paths[name].write_text("\n".join([*lines, '{"step": 9, "event": "x"}']) + "\n")
    return paths


@pytest.mark.parametrize("apart", [False, True])
def test_panels_are_metrics_or_runs(runs, tmp_path, apart):
    target = tmp_path / "runs.png"
    plot_runs(runs, ["loss", "extra"], target, apart=apart)
    with Image.open(target) as picture:
        assert picture.size == (1100, 352)
        lines = {c for _, c in picture.convert("RGB").getcolors(100_000) or []}
        assert (31, 119, 180) in lines and (255, 127, 14) in lines


def test_what_is_missing_is_named(runs, tmp_path):
    with pytest.raises(InputError, match="no run has 'los': there are extra, loss"):
        plot_runs(runs, ["los"], tmp_path / "x.png", apart=False)
    with pytest.raises(InputError, match=r"none\.jsonl: no such record"):
        plot_runs(
            {"a": tmp_path / "none.jsonl"}, ["loss"], tmp_path / "x.png", apart=True
        )
    assert not (tmp_path / "x.png").exists()
