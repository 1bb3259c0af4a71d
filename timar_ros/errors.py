"""The one error that is written for a person to read."""


class TimarError(Exception):
    """Something a user can mend: says what was wrong, what was expected and what to do."""
