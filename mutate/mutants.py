# SPDX-License-Identifier: Apache-2.0
"""Every control, each mechanism of it alone, and those together that stand one under the other."""

from __future__ import annotations

from mutate.authority import AUTHORITY
from mutate.floor import FLOOR
from mutate.live import LIVE
from mutate.view import VIEW

MUTANTS = (*FLOOR, *VIEW, *LIVE, *AUTHORITY)
