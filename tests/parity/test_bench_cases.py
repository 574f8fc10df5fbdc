"""Both sides of every row of the bench compute the same, at reduced size."""

import pytest

from scripts.bench_case import measure
from scripts.bench_cpu import CASES

pytestmark = [pytest.mark.parity, pytest.mark.slow]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_sides_agree(case):
    row = measure(case, pairs=1, reduced=True, wait=lambda: None)
    assert row["same"], f"gap {row['gap']:.1e}, at most {row['most']:.0e}"
    assert row["ratio"] > 0 and len(row["seconds"]["ours"]) == 1
    assert row["bar"] is None or row["goal"] <= row["bar"]
