# SPDX-License-Identifier: Apache-2.0
"""What a command fails with: one line that says what is wrong, a hint, and the exit status."""

from __future__ import annotations

REFUSED = 1  # the daemon refused, or a check failed
USAGE = 2
UNREACHABLE = 3


class CommandError(Exception):
    """The command cannot do what it was asked; `main` prints this and exits with `status`."""

    status = REFUSED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(CommandError):
    """What was typed cannot be understood."""

    status = USAGE


class UnreachableError(CommandError):
    """The daemon does not answer."""

    status = UNREACHABLE
