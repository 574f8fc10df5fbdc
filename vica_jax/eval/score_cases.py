"""Recorded cases of the published scorers, all computed again.

A cases file is one JSON object with the sections ``items``, ``aggregates``,
``prompts``, ``frame_indices``, ``space_aware_sampling``, ``scanqa`` and
``maxinfo_rect_maxvol`` (nothing reads ``meta``). An expected value may be
``{"error": "KeyError"}``: then such an error must be raised. Sections and keys that are
absent are counted and named; what is there and not understood is a failure.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vica_jax.errors import InputError
from vica_jax.eval.recorded import Found, Section, check_case, fail
from vica_jax.eval.score_checkers import CHECKERS, SPACE_AWARE, Case


class CasesError(InputError):
    """A file that holds no cases."""


def check_file(path: str | os.PathLike[str]) -> list[Section]:
    """Compute every case of a file again, section by section.

    Raises:
      CasesError: the file cannot be read, is not of the form above, or there is nothing
        in it to compare.
    """
    cases = _read(Path(path))
    sections = []
    for name in dict.fromkeys([*CHECKERS, *cases]):
        if name == "meta":
            continue
        section = Section(name=name)
        sections.append(section)
        if name not in CHECKERS:
            fail(section, "-", f"not a known section (those are {', '.join(CHECKERS)})")
            continue
        if name not in cases:
            section.absent["the section"] += 1
            continue
        for case_name, checker, case in _cases_of(section, cases[name], path):
            if isinstance(case, Mapping):
                check_case(section, case_name, checker(case))
            else:
                section.cases += 1
                fail(section, case_name, f"not an object: {type(case).__name__}")
    if not any(section.compared or section.failures for section in sections):
        raise CasesError(
            f"{path}: nothing to compare: it has no case of {', '.join(CHECKERS)}"
        )
    return sections


def _read(path: Path) -> dict[str, Any]:
    try:
        cases = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CasesError(f"{path}: cannot read it ({error.strerror})") from None
    except UnicodeDecodeError:
        raise CasesError(f"{path}: not UTF-8 text: give a cases file (JSON)") from None
    except json.JSONDecodeError as error:
        raise CasesError(
            f"{path}: not JSON (line {error.lineno}: {error.msg}): give a cases file"
        ) from None
    except (RecursionError, ValueError) as error:  # deep nesting, endless digits
        reason = str(error).partition("\n")[0]
        raise CasesError(f"{path}: not a cases file ({reason})") from None
    if not isinstance(cases, dict):
        raise CasesError(
            f"{path}: JSON, but a {type(cases).__name__} and no object with the "
            f"sections {', '.join(CHECKERS)}"
        )
    return cases


def _cases_of(
    section: Section, content: Any, path: str | os.PathLike[str]
) -> Iterator[tuple[str, Callable[[Case], Iterator[Found]], Any]]:
    """Name, checker and content of each case of a section."""
    parts = {"": (CHECKERS[section.name], content)}
    if section.name == "space_aware_sampling":
        if not isinstance(content, dict):
            raise CasesError(
                f"{path}: {section.name} must be an object of lists, got "
                f"{type(content).__name__}"
            )
        for name in content:
            if name not in SPACE_AWARE:
                fail(section, name, f"not a known list ({', '.join(SPACE_AWARE)} are)")
        section.absent.update(name for name in SPACE_AWARE if name not in content)
        parts = {
            f"{name} ": (checker, content[name])
            for name, checker in SPACE_AWARE.items()
            if name in content
        }
    for prefix, (checker, cases) in parts.items():
        if not isinstance(cases, list):
            raise CasesError(
                f"{path}: {prefix.strip() or section.name} must be a list of objects, "
                f"got {type(cases).__name__}"
            )
        for number, case in enumerate(cases):
            name = case.get("id", case.get("name")) if isinstance(case, dict) else None
            yield (
                f"{prefix}{number if name is None else ascii(name)[1:-1]}",
                checker,
                case,
            )
