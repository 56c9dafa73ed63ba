"""The errors that end a command with a message and without a traceback."""


class UserError(Exception):
    """Bad input, a missing file, a full disk: something the user can fix.

    The message names the file, row or key, the value, and what to do. The command line prints it
    without a traceback and exits with 1.
    """


class Stopped(SystemExit):
    """A stage was told to end (SIGTERM); what it saved, if anything, is gone on from later.

    Args:
        where: how far it came, such as ``step 12``; None if it saves nothing by then.
    """

    CODE = 128 + 15  # as a shell says that SIGTERM ended a program

    def __init__(self, where: str | None = None) -> None:
        super().__init__(self.CODE)
        self.where = where
