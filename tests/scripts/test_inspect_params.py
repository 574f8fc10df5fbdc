"""``scripts.inspect_params``: one table for both forms, and its sums."""

import re

import pytest
from command_line import run


def counts(out: str) -> dict[str, int]:
    """The sums at the end, by part."""
    lines = out.partition("parameters per part\n")[2].splitlines()
    return {name: int(n.replace(",", "")) for name, n in map(str.split, lines)}


def test_both_forms_have_one_table(vica, native):
    hf = run("inspect_params", checkpoint=vica)
    ours = run("inspect_params", checkpoint=native)
    assert (hf.code, hf.err) == (0, "")
    assert hf == ours
    assert hf.out.count("\n") == 93 + 2 + 5
    assert re.search(
        r"^llm/layers/0/attn/q_proj/kernel +\(64, 4, 16\) +float32 +4,096$",
        hf.out,
        re.MULTILINE,
    )


def test_counts_add_up(vica2):
    result = run("inspect_params", checkpoint=vica2)
    parts = counts(result.out)
    assert parts.pop("all") == sum(parts.values())
    assert parts.keys() == {
        *("siglip", "siglip_projector", "hiera", "hiera_projector", "newline", "llm")
    }
    assert parts["newline"] == 64
    assert parts["hiera_projector"] == 128 * 64 + 64 + 64 * 64 + 64
    assert "vica_qwen: parameters per part" in result.out


def test_depth_sums_up(vica):
    result = run("inspect_params", checkpoint=vica, depth=3)
    assert re.search(r"^llm/layers/0 +12 leaves +float32 ", result.out, re.MULTILINE)
    assert counts(result.out) == counts(run("inspect_params", checkpoint=vica).out)


@pytest.mark.parametrize("depth", [-1, "two"])
def test_a_depth_that_is_none(vica, depth):
    assert "depth" in run("inspect_params", checkpoint=vica, depth=depth).line


def test_no_checkpoint(tmp_path, vica):
    assert "no config.json" in run("inspect_params", checkpoint=tmp_path).line
    assert "--checkpoint" in run("inspect_params").line
    golden = vica.parent
    assert str(golden) in run("inspect_params", checkpoint=golden).line
