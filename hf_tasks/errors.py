"""Errors a user can mend.

- One class, `UserError`: the command line prints it as one line and exits with code 2; in Python it is a `ValueError`.
- Every message names the bad value, the known values and the way out; `unknown_name` writes the commonest of them.
"""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user asked for. The message is one line and says how to mend it."""


def unknown_name(kind: str, name: object, known: Iterable[str], hint: str = "") -> UserError:
    """The error for a name that is in no registry.

    Args:
        kind: what was looked up, in the singular ("task", "recipe", "key of a recipe").
        name: the value that was asked for.
        known: every value that would have been right.
        hint: one more clause for the end of the line, such as the command that lists the known values.

    Returns:
        the error, for the caller to raise.
    """
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    guess = f" (did you mean {near[0]!r}?)" if near else ""
    return UserError(f"unknown {kind} {name!r}{guess}; known: {', '.join(known)}" + (f"; {hint}" if hint else ""))
