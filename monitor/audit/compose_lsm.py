# SPDX-License-Identifier: Apache-2.0
"""Findings on what an LSM program refused: it says by which rule, the reference adds the remedy."""

from __future__ import annotations

from typing import Any

from monitor.audit import objects
from monitor.audit.compose_network import STANDING, WAIT
from monitor.audit.subject import Finding, Subject, because, on_file, text_of
from monitor.policy.action import Decision, Mechanism, Verb, Verdict
from monitor.policy.plan import MaskRule
from monitor.wire.events import DenyCause, FileEvent, FileOperation
from monitor.wire.layout import FILE_LINK_BITS


def find(subject: Subject, event: FileEvent, verb: Verb) -> Finding:
    """The finding on a refused use of a file or of a name."""
    assert event.cause is not None
    what = objects.file(event.path, event.target)
    details: dict[str, Any] = {"errno": objects.error_name(event.errno)}
    if event.claimed:
        details["claimed"] = True
    if event.inode:
        details |= {"device": objects.device(event.device), "inode": event.inode}
    if event.operation is FileOperation.MAP:
        details["mapped"] = True
    if subject.plan is None:
        return _finding(verb, what, subject.stranger, "", details)
    if event.cause in STANDING:
        details |= {"remedy": WAIT} if event.cause is DenyCause.CONDITION else {}
        return _finding(verb, what, STANDING[event.cause], "", details)
    link, mask = _place(subject, event)
    decision = on_file(subject, verb, event.path, event.target)
    if decision is not None and decision.verdict is not Verdict.DENY:
        decision = None
    if mask is not None:
        details["link"] = link
        return _finding(verb, what, _by_mask(event, mask, decision), str(mask.origin), details)
    if decision is not None:
        details |= because(decision)
        return _finding(verb, what, decision.reason, text_of(decision.rule), details)
    profile = "the profile"
    if link is not None:
        details["link"] = link
        profile = f"profile {subject.plan.policies[link].profile}"
    return _finding(verb, what, f"{profile} does not list it", "", details)


def _place(subject: Subject, event: FileEvent) -> tuple[int | None, MaskRule | None]:
    """The link that refused, and its mask where one did."""
    if event.rule < 0 or subject.plan is None:
        return None, None
    link, index = divmod(event.rule, 1 << FILE_LINK_BITS)
    if link >= len(subject.plan.policies):
        return None, None
    masks = subject.plan.policies[link].masks
    if event.cause is DenyCause.RULE and index < len(masks):
        return link, masks[index]
    return link, None


def _by_mask(event: FileEvent, mask: MaskRule, decision: Decision | None) -> str:
    if decision is not None and decision.rule == mask.origin:
        return decision.reason
    if event.operation is FileOperation.MAP:
        return f"a rule denies running {event.path}: it is not mapped as code either"
    return f"a rule denies it, whatever it is called: {mask.origin}"


def _finding(verb: Verb, what: str, reason: str, rule: str, details: dict[str, Any]) -> Finding:
    return Finding(verb, what, Verdict.DENY, reason, rule, Mechanism.LSM, details)
