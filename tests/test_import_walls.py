"""Who may import whom (docs/architecture.md, "Import walls"), read from the sources.

Imports inside functions and under ``TYPE_CHECKING`` count like any other. Names in the
tables are below ``vica_jax`` unless they are one of the packages beside it.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BESIDE = ("convert", "scripts", "configs")
PACKAGES = ("vica_jax", *BESIDE)

# Which first-party modules a module may import; its row is the longest that fits.
EVERYWHERE = "errors files"
MAY_IMPORT = {
    "errors": "",
    "files": "",
    "compilation_cache": "",
    "typing": "",
    "layout": "",
    "sharding": "typing layout",
    "models": "typing layout sharding models",
    "config": "typing layout models.config models.variants",
    "checkpoint": (
        "typing layout sharding config checkpoint models.config models.variants"
    ),
    "data": "typing layout data",
    "decode": "typing layout sharding config checkpoint models decode",
    "decode.assistant": "typing layout sharding config checkpoint models decode data",
    "decode.answer": "typing layout models decode data",
    "decode.memory": "typing layout sharding models decode data",
    "decode.programs": "typing layout models decode data",
    "decode.prompt": "typing layout models decode data",
    "decode.session": "typing layout sharding models decode data",
    "decode.session_file": "typing layout sharding checkpoint models decode data",
    "decode.warm_up": "typing layout models decode data",
    "train": "typing layout sharding config checkpoint models train data",
    "train.loop": "typing layout sharding config checkpoint models train",
    "eval": "typing layout sharding config checkpoint models train data decode eval",
    "world": "typing world",
    "pretrain": (
        "typing layout config checkpoint models train data world eval.prompts pretrain"
    ),
    "convert": "typing layout config checkpoint models convert",
    "convert.load": (
        "typing layout config checkpoint models convert decode.assistant "
        "decode.measure data.tokenizer"
    ),
    "scripts": "vica_jax convert scripts configs",
    "configs": "typing layout config models configs",
    "vica_jax": "vica_jax",  # __init__ alone: it names the public API lazily
}

TORCH = "convert.torch_peer convert.torch_timed convert.torch_gpu"
# Packages that are the business of a few modules (name: where they may be imported).
ONLY_IN = {
    "torch": TORCH,
    "transformers": f"data.tokenizer {TORCH}",
    "tokenizers": "pretrain.words",
    "orbax": "checkpoint",
    "grain": "data train",
    "decord": "data",
    "av": "data world scripts",
    "PIL": "data eval world pretrain.texts scripts",
    "ml_collections": "config configs scripts",
    "absl": "scripts configs data.loader",
    "pickle": "",
    "tests": "",
}
JAX = ("jax", "jaxlib", "flax", "optax", "orbax")
WITHOUT_JAX = (
    "errors files compilation_cache typing layout data eval world convert configs"
)
# Tables, scores and reports need numpy only; these place a model on devices or run it.
WITH_JAX = (
    "convert.load convert.compare convert.quantize convert.twins eval.cases "
    "eval.embed eval.golden eval.recipe eval.runner eval.settings eval.subject "
    "eval.sweep eval.training world.render"
)
NUMPY_ONLY = "errors files compilation_cache typing layout"


def full(name: str) -> str:
    """``layout`` -> ``vica_jax.layout``; the packages beside it stay as they are."""
    return name if name.split(".")[0] in PACKAGES else f"vica_jax.{name}"


def within(module: str, names: str) -> bool:
    """Whether a module is one of the space-separated names or lies below one."""
    return any(f"{module}.".startswith(f"{full(name)}.") for name in names.split())


def row_of(module: str) -> str:
    """The row of MAY_IMPORT that governs a module."""
    rows = [row for row in MAY_IMPORT if row != "vica_jax" and within(module, row)]
    if module == "vica_jax":
        rows = ["vica_jax"]
    assert rows, f"{module} has no row in MAY_IMPORT: decide what it may import"
    return max(rows, key=len)


def sources() -> dict[str, Path]:
    """Every first-party module by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(p for p in parts if p != "__init__")] = path
    return found


SOURCES = sources()


def imports(module: str, source: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a source imports, relative names resolved."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, *filter(None, [node.module])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                dunder = base == "vica_jax" and alias.name.startswith("__")
                if not dunder:
                    yield node.lineno, name if name in SOURCES else base
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "importlib.import_module",
            "import_module",
            "__import__",
        ):
            name = node.args[0] if node.args else None
            constant = isinstance(name, ast.Constant)
            yield node.lineno, str(name.value) if constant else "a computed name"


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """One line for each import that a module may not have."""
    may = MAY_IMPORT[row_of(module)]
    found = []
    for line, name in dict.fromkeys(imports(module, source, is_package)):
        top = name.split(".")[0]
        if name == "a computed name":
            wrong = module != "vica_jax"
        elif top in PACKAGES:
            wrong = not within(name, f"{may} {EVERYWHERE}")
        else:
            wrong = top in ONLY_IN and not within(module, ONLY_IN[top])
            wrong |= (
                top in JAX
                and within(module, WITHOUT_JAX)
                and not within(module, WITH_JAX)
            )
            if within(module, NUMPY_ONLY):
                wrong |= top != "numpy" and top not in sys.stdlib_module_names
        if wrong:
            found.append(f"{module}:{line} imports {name}")
    return found


@pytest.mark.parametrize("module", SOURCES)
def test_walls_stand(module: str):
    path = SOURCES[module]
    is_package = path.name == "__init__.py"
    assert violations(module, path.read_text(), is_package) == []


WRONG = [
    ("vica_jax.data.pixels", "import jax.numpy as jnp"),
    ("vica_jax.data.pixels", "def f():\n    from flax import linen"),
    ("vica_jax.data.pixels", "from vica_jax.models.config import HieraConfig"),
    ("vica_jax.data.pixels", "from ..models import config"),
    ("vica_jax.data.pixels", "from .. import models"),
    ("vica_jax.data.pixels", "from vica_jax import Assistant"),
    ("vica_jax.data.pixels", "import vica_jax"),
    ("vica_jax.data.pixels", "import importlib\nimportlib.import_module('jax')"),
    ("vica_jax.data.pixels", "name = 'jax'\n__import__(name)"),
    ("vica_jax.data.pixels", "from transformers import AutoTokenizer"),
    ("vica_jax.data.tokenizer", "import torch"),
    ("vica_jax.layout", "import scipy"),
    ("vica_jax.layout", "import vica_jax.typing"),
    ("vica_jax.errors", "import vica_jax.layout"),
    ("vica_jax.models.vica", "import vica_jax.data.pixels"),
    ("vica_jax.models.vica", "from convert import rules"),
    ("vica_jax.models.vica", "import orbax.checkpoint"),
    ("vica_jax.decode.generate", "import vica_jax.data.tokenizer"),
    ("vica_jax.decode.assistant", "from convert.load import load"),
    ("vica_jax.decode.assistant", "import scripts"),
    ("vica_jax.train.loop", "from vica_jax.data import loader"),
    ("vica_jax.train.step", "import pickle"),
    ("vica_jax.world.scene", "import vica_jax.layout"),
    ("convert.qwen2", "import vica_jax.decode.assistant"),
    ("convert.qwen2", "import jax"),
    ("convert.load", "import vica_jax.decode.generate"),
    ("convert.load", "import vica_jax.data.pixels"),
    ("configs.common", "import vica_jax.train.loop"),
    ("scripts.generate", "import torch"),
]
RIGHT = [
    ("vica_jax", "import importlib\nimportlib.import_module(name)", True),
    ("vica_jax.layout", "import numpy as np\nimport vica_jax.errors", False),
    ("vica_jax.data.tokenizer", "import transformers\nfrom . import pixels", False),
    ("vica_jax.data", "from .pixels import resize", True),
    ("vica_jax.checkpoint", "from vica_jax import __version__", False),
    ("vica_jax.decode.assistant", "from vica_jax.data.video import read", False),
    ("convert.load", "from vica_jax.decode.assistant import Assistant", False),
    ("convert.torch_peer", "def f():\n    import torch, transformers", False),
    ("convert.torch_gpu", "def f():\n    import torch, transformers", False),
    ("scripts.generate", "from convert.load import load\nimport vica_jax", False),
]


@pytest.mark.parametrize(("module", "source"), WRONG)
def test_checker_sees_wrong_imports(module: str, source: str):
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(("module", "source", "is_package"), RIGHT)
def test_checker_lets_right_imports_pass(module: str, source: str, is_package: bool):
    assert violations(module, source, is_package) == []


def test_every_module_has_a_row():
    assert [row_of(module) for module in SOURCES]
    with pytest.raises(AssertionError, match="has no row"):
        row_of("vica_jax.unheard_of")


def test_data_runs_without_jax():
    """In a fresh process, importing the jax-free modules leaves jax unloaded.

    Modules that import grain are left out: grain itself imports jax.
    """
    modules = ["vica_jax"]
    for module, path in SOURCES.items():
        names = imports(module, path.read_text(), path.name == "__init__.py")
        jax_free = within(module, WITHOUT_JAX) and not within(module, WITH_JAX)
        if jax_free and module.startswith("vica_jax."):
            grain = any(name.split(".")[0] == "grain" for _, name in names)
            modules += [] if grain else [module]
    script = f"""
import importlib, sys
for module in {modules!r}:
    importlib.import_module(module)
    found = [name for name in {JAX!r} if name in sys.modules]
    if found:
        sys.exit(f"importing {{module}} loads {{found}}")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(modules) > 3
