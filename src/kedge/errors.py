"""What goes wrong through no fault of the code."""

from __future__ import annotations


class InputError(ValueError):
    """Something that was given cannot be used: a file, a maze, a goal, a setting.

    The message is one line that says what is wrong, where, and what to do. The command line prints that line alone and
    ends with exit code 2.
    """
