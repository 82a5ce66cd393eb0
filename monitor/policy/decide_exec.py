# SPDX-License-Identifier: Apache-2.0
"""Decisions on program starts by their arguments, as the gate takes them."""

from __future__ import annotations

from monitor.policy import verdicts
from monitor.policy.action import Decision, ExecAction, Mechanism, Verdict
from monitor.policy.exec_rules import ExecFinding, Program, judge
from monitor.policy.plan import Plan

MOST_SHOWN = 200


def decide(plan: Plan, action: ExecAction, earned: frozenset[int]) -> Decision | None:
    """What a rule on program starts says of `action`; None: no rule speaks of it.

    Paths among the arguments are taken from the root, since no working directory is known here.
    """
    found = judge(plan.policies, Program(action.path, action.argv, "/"), earned)
    wanted = found.verdict
    if wanted is Verdict.ALLOW:
        return None
    return of(next(each for each in found.findings if each.verdict is wanted), action)


def of(finding: ExecFinding, action: ExecAction) -> Decision:
    """The decision that one link's finding, DENY or ASK, comes to."""
    rule = finding.rule
    what = described(action)
    if rule is None:
        assert finding.label is not None, "without a rule a label asks"
        return verdicts.asked(Mechanism.GATE, finding.label.origin, what, link=finding.link)
    if finding.verdict is Verdict.ASK:
        return verdicts.asked(Mechanism.GATE, rule.origin, what, link=finding.link)
    return verdicts.refused(
        Mechanism.GATE,
        rule.origin,
        what + (f" ({rule.why})" if rule.why else ""),
        link=finding.link,
        remedy=verdicts.remove(rule.origin),
    )


def described(action: ExecAction) -> str:
    """The program start in words, its arguments as a shell would show them."""
    text = verdicts.shown(" ".join([action.path, *action.argv[1:]]))
    return f"starting {text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + ' …'}"
