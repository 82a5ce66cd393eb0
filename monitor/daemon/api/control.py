# SPDX-License-Identifier: Apache-2.0
"""One control, as the doctor tells of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Control:
    """One control. `since`: the kernel that first gave its mechanism; `missing`: what to do.

    `active_since` in Unix seconds, where it is active.
    """

    name: str
    mechanism: str
    active: bool
    detail: str = ""
    missing: str = ""
    since: str = ""
    active_since: float | None = None
