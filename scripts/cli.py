"""What every command shares: bad input ends in one message and exit status 1."""

import signal
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from vica_jax.errors import InputError


def run(main: Callable[[], None], required: Sequence[str] = ()) -> None:
    """Parse flags, call ``main()``, turn bad input into ``error: ...``, exit 1."""

    def checked(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # jax looks for every backend aloud
        if len(argv) > 1:
            fail(f"unexpected argument {argv[1]!r}; every option is a --flag")
        if missing := [f"--{name}" for name in required if not flags.FLAGS[name].value]:
            fail(f"{missing[0]} is missing or empty; --help lists the flags")
        signal.signal(signal.SIGTERM, _terminate)
        try:
            main()
        except (InputError, OSError) as error:  # OSError: a full disk, a closed pipe
            fail(str(error))
        except KeyboardInterrupt:
            fail("interrupted", status=130)

    app.run(checked, flags_parser=_parse)


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
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        fail(f"{' '.join(str(error).split())}; --help lists the flags")
        raise


def _terminate(*_) -> None:
    """Leave by an exception, so that unfinished folders are removed."""
    fail("terminated", status=143)
