# SPDX-License-Identifier: Apache-2.0
"""The one error of the demo: what could not be set up or run, and what to do about it."""


class DemoError(Exception):
    """The demo itself could not go on (as opposed to: an attack got through)."""
