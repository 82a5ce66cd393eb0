# SPDX-License-Identifier: Apache-2.0
"""Budgets in words, for reasons."""

from __future__ import annotations

from typing import Any

from monitor.policy.plan import Budgets
from monitor.wire.layout import BudgetKind

_WORDS = {
    BudgetKind.CONNECTS: "{} connections a minute",
    BudgetKind.DESTINATIONS: "{} different destinations",
    BudgetKind.EGRESS: "{} bytes sent",
    BudgetKind.EXECS: "{} program starts a minute",
    BudgetKind.DELETES: "{} removals a minute",
}
_KEYS = {
    BudgetKind.CONNECTS: "connects_per_minute",
    BudgetKind.DESTINATIONS: "destinations",
    BudgetKind.EGRESS: "egress_bytes",
    BudgetKind.EXECS: "execs_per_minute",
    BudgetKind.DELETES: "deletes_per_minute",
}


def named(number: int) -> BudgetKind | None:
    """The kind that a record gives by its number."""
    try:
        return BudgetKind(number)
    except ValueError:
        return None


def spent(kind: BudgetKind | None, budgets: Budgets | None) -> str:
    """Why something was refused: what may be used, and was."""
    limit = None if kind is None or budgets is None else getattr(budgets, kind.name.lower())
    if kind is None or limit is None:
        return "a budget is used up"
    return f"the budget of {_WORDS[kind].format(limit)} is used up"


def details(kind: BudgetKind | None) -> dict[str, Any]:
    """What a record keeps of it, with what would change it."""
    if kind is None:
        return {"budget": "?"}
    return {"budget": kind.name.lower(), "remedy": f"raise limits.{_KEYS[kind]}"}
