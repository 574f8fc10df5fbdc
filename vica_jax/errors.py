"""The one kind of error that is the input's fault, not the program's."""


class InputError(ValueError):
    """Bad input. The message is one line: what, where, and what to do.

    Command lines print it and exit with status 1; libraries may catch it.
    """
