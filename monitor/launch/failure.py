# SPDX-License-Identifier: Apache-2.0
"""Why CMD does not run: what every step of the launcher raises, and the exit statuses."""

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
