"""What the command line reports in one sentence instead of a traceback."""


class UserError(Exception):
    """Something that the user can put right: the message says what."""
