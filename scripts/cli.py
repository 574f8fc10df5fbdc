"""What every command shares: bad input ends in one message and exit status 1."""

import difflib
import glob
import os
import re
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import app, flags, logging

from vica_jax.compilation_cache import (
    CacheFolderError,
    disable_compilation_cache,
    enable_compilation_cache,
)
from vica_jax.errors import InputError


def run(
    main: Callable[[], None], required: Sequence[str] = (), *, compiles: bool = True
) -> None:
    """Parse flags, call ``main()``, turn bad input into ``error: ...``, exit 1.

    What a command ``compiles`` is kept on disk for the next.
    """

    def checked(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # jax looks for every backend aloud
        if len(argv) > 1:
            fail(f"unexpected argument {argv[1]!r}; every option is a --flag")
        if missing := [f"--{name}" for name in required if not flags.FLAGS[name].value]:
            fail(f"{missing[0]} is missing or empty; --help lists the flags")
        signal.signal(signal.SIGTERM, _terminate)
        if compiles:
            _keep_compiled_programs()
        try:
            main()
        except (InputError, OSError) as error:  # OSError: a full disk, a closed pipe
            fail(str(error))
        except KeyboardInterrupt:
            fail("interrupted", status=130)

    app.run(checked, flags_parser=_parse)


def _keep_compiled_programs() -> None:
    try:
        enable_compilation_cache()
    except CacheFolderError as error:
        print(f"warning: {error}", file=sys.stderr)
        disable_compilation_cache()


def token_ratio(parts: Sequence[str] | None) -> tuple[int, int, int] | None:
    """The value of a ``--token_ratio=N_hiera,S_stage,s_pool`` flag."""
    if parts is None:
        return None
    if len(parts) != 3 or not all(
        part.isascii() and part.strip().isdigit() for part in parts
    ):
        fail(f"--token_ratio={','.join(parts)}: give N_hiera,S_stage,s_pool")
    num_hiera, stage, pool = map(int, parts)
    return num_hiera, stage, pool


def fail(message: str, status: int = 1) -> None:
    """End the program with one message on stderr.

    One line; where several violations are listed, they follow indented.
    """
    first, *more = [line.strip() for line in message.strip().split("\n")]
    if len(more) == 1:
        first, more = f"{first}: {more[0]}", []
    print("\n  ".join([f"error: {first}", *more]), file=sys.stderr)
    sys.exit(status)


def _parse(argv: Sequence[str]) -> list[str]:
    if "config" in flags.FLAGS:
        _check_config(argv[1:])
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        fail(f"{' '.join(str(error).split())}; --help lists the flags")
        raise
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        # What ml_collections raises of a --config.KEY that _check_config cannot read.
        changes = [arg for arg in argv if re.match(r"--?(no)?config\.", arg)]
        reason = " ".join(str(error).split())
        fail(f"{' '.join(changes)}: {type(error).__name__}: {reason}")
        raise


# --------------------------------------------------------------------- --config=FILE
def _check_config(argv: Sequence[str]) -> None:
    """End the program where a config file or a key that flags change is wrong.

    ``ml_collections.config_flags`` lets what a config file raises through as it is, and
    says of an unknown key its last part alone.
    """
    given = None
    for arg, following in zip(argv, [*argv[1:], None], strict=False):
        if found := re.fullmatch(r"--?config(?:=(.*))?", arg):
            given = following if found[1] is None else found[1]
    if given is None:
        return  # a required flag is missed later
    if not given:
        fail("--config is empty: write --config=configs/NAME.py[:variant]")
    config = _read_config(given)
    for arg in argv:
        if found := re.match(r"--?(?:no)?config\.([\w.]*\w)(?==|$)", arg):
            _check_key(config, found[1])


def _read_config(given: str) -> Mapping[str, Any]:
    """``get_config()`` of a config file, as ``--config=FILE[:variants]`` gives it."""
    path, separator, variants = given.partition(":")
    if not os.path.isfile(path):
        folder = os.path.dirname(path) or "."
        files = glob.glob("*.py", root_dir=folder)
        near = difflib.get_close_matches(os.path.basename(path), files, 1)
        hint = f": did you mean {os.path.join(folder, near[0])}?" if near else ""
        fail(f"--config={given}: no such file{hint}")
    try:
        get_config = runpy.run_path(path)["get_config"]
        return get_config(*[variants] * bool(separator)).to_dict()
    except Exception as error:  # a Python file: it can raise anything
        first = (str(error).splitlines() or [""])[0]
        if type(error) is not ValueError:  # that is a variant that there is not
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename == path]
            if isinstance(error, SyntaxError):
                lines, first = [error.lineno], error.msg
            where = f" line {lines[-1]}:" if lines else " not a config file:"
            first = f"{where[1:]} {type(error).__name__}: {first}"
        fail(f"--config={given}: {first}")
        raise


def _check_key(config: Mapping[str, Any], key: str) -> None:
    """End the program where ``--config.KEY`` names nothing that ``config`` has."""
    node: Any = config
    parts = key.split(".")
    for depth, part in enumerate(parts):
        at = ".".join(["config", *parts[:depth]])
        if not isinstance(node, Mapping):
            fail(f"--config.{key}: {at} is {node!r:.60} and has no settings in it")
        if part not in node:
            above = f"{at}.".startswith
            keys = [key for key in _keys(config) if not above(f"config.{key}.")]
            near = _nearest(".".join(parts), keys)
            hint = f"did you mean --config.{near}?" if near else ""
            fail(f"--config.{key}: {at} has no {part!r}: {hint or _list(node)}")
        node = node[part]


def _keys(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")


def _nearest(key: str, keys: Sequence[str]) -> str | None:
    """The same name elsewhere, or else the key most like it."""
    last = key.rpartition(".")[2]
    same = [name for name in keys if name.rpartition(".")[2] == last]
    return next(iter(same or difflib.get_close_matches(key, keys, 1, 0.7)), None)


def _list(node: Mapping[str, Any]) -> str:
    names = ", ".join(node)
    return f"it has {names}" if len(names) < 200 else f"it has {names[:200]}..."


def _terminate(*_) -> None:
    """Leave by an exception, so that unfinished folders are removed."""
    fail("terminated", status=143)
