"""Habits that a reader relies on: packaging, locks, names, scripts, plain sources."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vica_jax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("vica_jax", "convert", "scripts", "configs")
NOT_OURS = {"build", "dist", "demo", "goldens", "__pycache__"}


def ours(pattern: str) -> list[Path]:
    """Files of the checkout, without caches, the environment and recorded data."""
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [
            name
            for name in folders
            if name not in NOT_OURS and (name == ".ci" or not name.startswith("."))
        ]
        found += [path for name in files if (path := Path(folder, name)).match(pattern)]
    return sorted(found)


def python(*packages: str) -> list[Path]:
    return [p for p in ours("*.py") if p.relative_to(ROOT).parts[0] in packages]


SCRIPTS = [path for path in python("scripts") if "__main__" in path.read_text()]
COMMANDS = {
    "bench",
    "bench_gpu",
    "bench_memory",
    "bench_scaling",
    "cache_features",
    "check_data",
    "convert_checkpoint",
    "demo",
    "eval_report",
    "eval_sweep",
    "eval_vsibench",
    "generate",
    "inspect_params",
    "make_questions",
    "make_smoke_benchmark",
    "make_smoke_data",
    "make_world",
    "plan_memory",
    "plot_runs",
    "pretrain_world",
    "train",
    "verify_parity",
    "verify_scores",
    "verify_training",
}


def trees(*packages: str) -> dict[str, ast.Module]:
    files = python(*packages)
    return {str(p.relative_to(ROOT)): ast.parse(p.read_text()) for p in files}


def requirements(*extras: str) -> list[Requirement]:
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def locked(name: str) -> dict[str, Requirement]:
    lines = (ROOT / name).read_text().splitlines()
    rows = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(row.name): row for row in rows}


# ------------------------------------------------------------------------ packaging
def test_wheel_ships_the_library_alone(tmp_path: Path):
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(name for name in names if name.endswith("METADATA"))
        text = archive.read(metadata).decode()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"vica_jax"}
    for name in ("layout.py", "eval/browser.html", "eval/published.json"):
        assert f"vica_jax/{name}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert f"\nVersion: {vica_jax.__version__}\n" in text
    assert "\nRequires-Python: >=3.11\n" in text


def test_licence_is_the_whole_apache_text():
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize(
    ("lock", "extras"),
    [("requirements.lock", ["dev"]), ("requirements-parity.lock", ["parity"])],
)
def test_lock_holds_exact_versions_that_satisfy_the_bounds(
    lock: str, extras: list[str]
):
    rows = locked("requirements.lock") | locked(lock)
    for row in rows.values():
        (pin,) = row.specifier
        assert pin.operator == "==" and row.url is None, str(row)
    for wanted in requirements(*extras):
        row = rows[canonicalize_name(wanted.name)]
        (pin,) = row.specifier
        assert wanted.specifier.contains(pin.version), f"{row} against {wanted}"
        if wanted.marker:
            assert str(row.marker) == str(wanted.marker)
    assert "torch" not in locked("requirements.lock")


def test_lock_holds_what_its_packages_need():
    rows = locked("requirements.lock")
    for name, row in rows.items():
        if row.marker and not row.marker.evaluate():
            continue
        for line in importlib.metadata.requires(name) or []:
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                assert canonicalize_name(need.name) in rows, f"{name} needs {need.name}"


def test_every_third_party_import_is_declared():
    declared = {canonicalize_name(r.name) for r in requirements("parity")}
    # The names of packages differ from import names: ask what is installed.
    owners = importlib.metadata.packages_distributions()
    ours_too = {*PACKAGES, *sys.stdlib_module_names}
    for file, tree in trees(*PACKAGES).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            else:
                continue
            for top in {name.split(".")[0] for name in names} - ours_too:
                found = {canonicalize_name(name) for name in owners.get(top, [top])}
                assert found & declared, f"{file}:{node.lineno} imports {top}"


# -------------------------------------------------------------------------- sources
def test_no_vague_module_names():
    vague = {"utils", "util", "helpers", "helper", "misc", "common_utils", "manager"}
    paths = [str(p) for p in ours("*.py") if vague & {p.stem, *p.parts[-2:-1]}]
    assert paths == []


def test_library_prints_nothing():
    for file, tree in trees("vica_jax", "convert").items():
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
        lines = [n.lineno for n in calls if ast.unparse(n.func) in ("print", "pprint")]
        assert lines == [], f"{file} prints"


def test_no_postponed_annotations():
    """jaxtyping checks real annotations, not strings."""
    for file, tree in trees(*PACKAGES, "tests").items():
        nodes = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        assert all(node.module != "__future__" for node in nodes), file


def test_nothing_runs_code_from_data():
    for file, tree in trees(*PACKAGES).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg in (
                "trust_remote_code",
                "allow_pickle",
            ):
                assert ast.unparse(node.value) == "False", f"{file}:{node.value.lineno}"


def test_no_file_names_a_folder_of_some_machine():
    homes = ["ho" + "me", "ro" + "ot", "Us" + "ers", "wo" + "rk", "mnt", "scr" + "atch"]
    pattern = re.compile(rf"(?<![\w.~*}}-])/(?:{'|'.join(homes)})/\w")
    assert pattern.search("see " + "/ho" + "me/me/x") and not pattern.search("a/mnt/x")
    text = {".py", ".md", ".toml", ".lock", ".yaml", ".json", ".cfg", ""}
    for path in ours("*"):
        if path.suffix in text:
            found = pattern.search(path.read_text(errors="replace"))
            assert not found, f"{path.relative_to(ROOT)}: {found and found.group()}"


# -------------------------------------------------------------------------- scripts
def test_every_documented_command_is_there():
    assert {path.stem for path in SCRIPTS} >= COMMANDS


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_says_how_it_is_called_and_has_a_guarded_main(path: Path):
    tree = ast.parse(path.read_text())
    assert f"python -m scripts.{path.stem}" in (ast.get_docstring(tree) or "")
    functions = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
    assert "main" in functions
    guards = [n for n in tree.body if isinstance(n, ast.If)]
    assert any(ast.unparse(g.test) == "__name__ == '__main__'" for g in guards)


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_explains_itself(path: Path):
    command = [sys.executable, "-m", f"scripts.{path.stem}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr  # absl's --help exits with 1
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) > 3
