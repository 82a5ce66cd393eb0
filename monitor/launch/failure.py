# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in a launch: the error that every step raises, exit statuses, lines on stderr."""

import os
import select

REFUSED = 125  # no session, or a step of the launch failed
NOT_EXECUTABLE = 126
NOT_FOUND = 127


class LaunchError(Exception):
    """The launch ends here: one line of `reason`, perhaps a `hint`, and the exit status."""

    def __init__(self, reason: str, hint: str = "", status: int = REFUSED) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
        self.status = status


def printable(text: str) -> str:
    """`text` in one line without control characters: names in it may be an agent's own."""
    return "".join(each if each.isprintable() else "?" for each in text)


def say(text: str, hint: str = "") -> None:
    """One line on stderr. Never waits: signals must be passed on while nobody reads."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    line = f"ri-exec: {printable(text)}\n" + (f"hint: {printable(hint)}\n" if hint else "")
    try:
        if poll.poll(0):
            os.write(2, os.fsencode(line))
    except OSError:
        return
