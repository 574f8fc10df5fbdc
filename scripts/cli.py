"""What every command shares: bad input ends in one line and exit status 1."""

import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from vica_jax.errors import InputError


def run(main: Callable[[], None], required: Sequence[str] = ()) -> None:
    """Parse flags, call ``main()``, turn an InputError into ``error: ...``, exit 1."""
    for name in required:
        flags.mark_flag_as_required(name)

    def checked(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # jax looks for every backend aloud
        if len(argv) > 1:
            fail(f"unexpected argument {argv[1]!r}; every option is a --flag")
        try:
            main()
        except InputError as error:
            fail(" ".join(str(error).split("\n")) if _short(error) else str(error))
        except KeyboardInterrupt:
            fail("interrupted", status=130)

    app.run(checked)


def fail(message: str, status: int = 1) -> None:
    """End the program with one line on stderr."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def _short(error: InputError) -> bool:
    return len(str(error)) < 400
