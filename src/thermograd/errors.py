"""The two kinds of failure that a user sees as one line."""


class InputError(ValueError):
    """Bad input: the message names the field and the value. The command line exits with 2."""


class RunError(RuntimeError):
    """Work that was well specified failed while running. The command line exits with 1."""
