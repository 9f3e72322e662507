"""Errors that the user can fix, and how a run says that it was interrupted. Imports no torch."""

from __future__ import annotations


def article(noun: str) -> str:
    """``noun`` after its indefinite article, for messages: "a clip", "an upsampler"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


class UserError(Exception):
    """Something the user can fix: one line that names the place, the problem and the fix.

    The command line prints it without a trace and exits with status 2.
    """


class Interrupted(UserError):
    """A run was told to stop and has saved itself.

    The command line exits with status 75 (EX_TEMPFAIL: try again), so that a queue can requeue it.
    """
