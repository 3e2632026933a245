"""The one exception that means *the user can mend this*."""


class UserError(ValueError):
    """Bad input, said in one line: what is wrong, the value, what was expected, the next move.

    The command line prints the message without a traceback and exits with code 2. Library callers
    catch it as the `ValueError` it is.
    """
