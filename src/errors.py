"""Errors that a person can mend, and the hint that they give for a misspelled word."""

import difflib
import errno
import os
from collections.abc import Iterable


class UserError(Exception):
    """Its text says what can be done: the command line prints it, and nothing of the code."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'X'?` for the known word most like `word`, or nothing."""
    closest = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {closest[0]!r}?" if closest else ""


# What to do about an error of the operating system; by its number.
_ADVICE = {
    errno.ENOSPC: "free some space, and try again",
    errno.EDQUOT: "free some space, and try again",
    errno.EROFS: "set SPELLTUNE_HOME to a folder that can be written",
    errno.EACCES: "may this user read and write it?",
    errno.EPERM: "may this user read and write it?",
}


def _current_folder_is_gone(name: object) -> bool:
    """True if a file was not found because it is named from a current folder that was deleted."""
    if name is None:
        return True
    if os.path.isabs(os.fsdecode(name) if isinstance(name, str | bytes) else "/"):
        return False
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def reason(error: BaseException) -> str:
    """The message of an error on one line, without the number and the file that an OSError names:
    for sentences that name the file themselves."""
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def explain(error: UserError | OSError) -> str:
    """A sentence on an error that a person can mend, or on one of the operating system."""
    return str(error) if isinstance(error, UserError) else explain_os_error(error)


def explain_os_error(error: OSError) -> str:
    """A sentence on an error of the operating system: the file, what is wrong, what can be done."""
    if error.errno == errno.ENOENT and _current_folder_is_gone(error.filename):
        return "the current folder is gone; change into another one"
    what = (error.strerror or str(error) or type(error).__name__).lower()
    at = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    advice = _ADVICE.get(error.errno or 0)
    return f"{at + ': ' if at else ''}{what}" + (f"; {advice}" if advice else "")
