"""What ends a command: a sentence for a person, and an exit code."""


class CliError(Exception):
    """Printed as `Error: <text>`, without a traceback. The text says what is wrong and what to do next.

    status: the HTTP status behind it, 0 if there was none.  exit_code: 1, or 2 for settings.
    """

    def __init__(self, text: str, *, status: int = 0, exit_code: int = 1) -> None:
        super().__init__(text)
        self.status = status
        self.exit_code = exit_code


class Unreachable(CliError):
    """Nothing listens where the node should be."""
