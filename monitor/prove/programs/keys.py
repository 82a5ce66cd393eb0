# SPDX-License-Identifier: Apache-2.0
"""The keyrings that a user's processes share: `keys.py keyctl|add_key|request_key`."""

import contextlib
import sys

from attempt import attempt, call

ADD_KEY, REQUEST_KEY, KEYCTL = 248, 249, 250
KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, KEY_SPEC_USER_KEYRING = 0, -2, -4


def request() -> int:
    """A key of this process's own, so that there is one to be found."""
    with contextlib.suppress(OSError):  # refused as well: then the request shows its own refusal
        call(ADD_KEY, b"user", b"ri-test", b"x", 1, KEY_SPEC_PROCESS_KEYRING)
    return call(REQUEST_KEY, b"user", b"ri-test", None, 0)


attempt(
    {
        "keyctl": lambda: call(KEYCTL, KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_KEYRING, 1),
        "add_key": lambda: call(ADD_KEY, b"user", b"ri-test", b"x", 1, KEY_SPEC_PROCESS_KEYRING),
        "request_key": request,
    }[sys.argv[1]]
)
