"""What every torch twin needs: random weights, and one measure of the error.

The error of an array is ``max|ours - theirs| / max|theirs|``. With ``PARITY_REPORT``
set to a file name, the largest error of every module and config is written there as a
table.
"""

import datetime
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from convert.rules import Row, convert, nest
from scripts.bench_inputs import drawn

TOLERANCE = 1e-5  # of small models; exact and tanh GELU differ by more

RandomTensors = Callable[[Iterable[Row], int], dict[str, np.ndarray]]
RecordError = Callable[..., float]
Errors = dict[tuple[str, str], float]


@pytest.fixture(scope="session", autouse=True)
def _torch():
    pytest.importorskip("torch", reason="the extra [parity] is not installed")


@pytest.fixture(scope="session")
def random_tensors() -> RandomTensors:
    """``(rows, seed)`` -> tensors under the rows' Hugging Face names.

    Gains keep activations of order one; norms and biases are far from their initial
    values, so that none of them can be forgotten unnoticed.
    """

    def draw(rows: Iterable[Row], seed: int) -> dict[str, np.ndarray]:
        return drawn(rows, seed=seed, embedding=0.5, rest=0.2)

    return draw


@pytest.fixture(scope="session")
def to_params() -> Callable[[Iterable[Row], Mapping[str, np.ndarray]], dict]:
    """Tensors under Hugging Face names -> our parameter tree, through the tables."""
    return lambda rows, tensors: nest(convert(rows, tensors.__getitem__))


@pytest.fixture(scope="session")
def _errors() -> Iterator[Errors]:
    errors: Errors = {}
    yield errors
    if os.environ.get("PARITY_REPORT"):
        _write_report(Path(os.environ["PARITY_REPORT"]), errors)


@pytest.fixture(scope="session")
def record_error(_errors: Errors) -> RecordError:
    """``(module, config, ours, theirs)``: measure, record, and hold to a tolerance."""

    def record(
        module: str, config: str, ours, theirs, *, tolerance: float = TOLERANCE
    ) -> float:
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        assert ours.shape == theirs.shape, f"{module}, {config}"
        largest = np.abs(theirs).max()
        assert np.isfinite(ours).all() and largest > 0, f"{module}, {config}"
        error = float(np.abs(ours - theirs).max() / largest)
        key = (module, config)
        _errors[key] = max(error, _errors.get(key, 0.0))
        print(f"{module}, {config}: relative error {error:.1e}")
        assert error < tolerance, f"{module}, {config}: relative error {error:.2e}"
        return error

    return record


def _write_report(path: Path, errors: Errors) -> None:
    names = ("jax", "torch", "transformers")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    lines = [
        f"Measured on {datetime.date.today()} with {versions}, float32 on the CPU.",
        "",
        "| module | config | max relative error |",
        "|---|---|---|",
        *(f"| {m} | {c} | {error:.1e} |" for (m, c), error in errors.items()),
    ]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("\n".join(lines) + "\n")
    temporary.replace(path)
