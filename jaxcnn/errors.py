"""What counts as the user's mistake rather than ours."""


class UserError(ValueError):
    """Something a user can cause and mend.

    The message is one line that names the value, what is allowed and the remedy; the command-line
    programs print it without a traceback and exit with code 1.
    """
