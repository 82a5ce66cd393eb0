# SPDX-License-Identifier: Apache-2.0
"""The words of decisions: reasons of one line, and the change to a profile that would help."""

from __future__ import annotations

import json

from monitor.policy.action import Decision, Mechanism, Origin, Verdict
from monitor.policy.plan import Policy


def allowed(rule: Origin | None = None, link: int | None = None, reason: str = "") -> Decision:
    return Decision(Verdict.ALLOW, reason or f"allowed by {rule}", Mechanism.NONE, link, rule)


def unlisted(
    mechanism: Mechanism, link: int, policy: Policy, what: str, remedy: str = ""
) -> Decision:
    """Nothing of this link lists it."""
    reason = f"no rule of {policy.profile} allows {what}"
    return Decision(Verdict.DENY, reason, mechanism, link, None, remedy)


def refused(
    mechanism: Mechanism, rule: Origin, what: str, *, link: int | None = None, remedy: str = ""
) -> Decision:
    """A rule says no."""
    return Decision(Verdict.DENY, f"{what}: refused by {rule}", mechanism, link, rule, remedy)


def asked(mechanism: Mechanism, rule: Origin, what: str, *, link: int | None = None) -> Decision:
    """A person is asked first."""
    return Decision(
        Verdict.ASK,
        f"{what}: held until somebody answers, by {rule}",
        mechanism,
        link,
        rule,
        remove(rule),
    )


def add(section: str, text: str) -> str:
    return f"{section}: add {quoted(text)}"


def remove(rule: Origin) -> str:
    return f"{rule.section}: remove {quoted(rule.text)}"


def quoted(text: str) -> str:
    """`text` as YAML's double quotes take it, on one line whatever it holds."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def shown(text: str) -> str:
    """`text` in a reason: an agent chooses file names, and a reason is one line."""
    return text if text.isprintable() else quoted(text)
