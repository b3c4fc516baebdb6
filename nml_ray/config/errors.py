"""The one exception for mistakes of the user's, and how its message is worded."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: printed as one message without traceback, exit code 2.

    The message gives the place (file and line, or flag), what was found, what was expected and, where a name was
    misspelt, the nearest valid one.
    """

    def __init__(self, found: str, *, where: str = "", expected: str = "", nearest: str = "") -> None:
        text = f"{where}: {found}" if where else found
        if expected:
            text += f"; expected {expected}"
        if nearest:
            text += f"; did you mean '{nearest}'?"
        super().__init__(text)


def nearest_name(word: str, names: Iterable[str]) -> str:
    """The valid name closest to a misspelt one, or "" when none is close."""
    return next(iter(difflib.get_close_matches(word, list(names), n=1, cutoff=0.5)), "")
