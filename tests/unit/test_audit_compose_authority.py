# SPDX-License-Identifier: Apache-2.0
"""Records of labels, budgets, asks and conditions: their reasons, their rules, what would help."""

from __future__ import annotations

import time
from typing import Any

import pytest

from monitor.audit.compose import Composer
from monitor.audit.record import Draft
from monitor.policy.action import Decision, Mechanism, Origin, Verb, Verdict
from monitor.policy.plan import Budgets, Label
from monitor.session.session import Session
from monitor.wire.events import AnyEvent, DenyCause, ExecEvent, LabelEvent, NetEvent, NetOperation
from monitor.wire.layout import BudgetKind
from tests.support.audit import RULE, plan, policy, session

ONLY = Origin("coder", "labels.seen.then.network.only", "10.0.0.0/8", "coder.yaml", 30)
LABEL = Label(
    name="seen",
    files=(),
    exec=(),
    policy=policy(rules=(ONLY,)),
    rules=(),
    ask=False,
    origin=Origin("coder", "labels", "seen", "coder.yaml", 28),
)
LIMITED = policy(
    profile="outer",
    budgets=Budgets(connects=10, destinations=3, egress=4096, execs=5, deletes=6),
)
# Two links: the first has budgets, the second a label without and one with a policy.
GOVERNED = session(
    policies=(5, 6),
    labels=(7, 8),
    plan=plan(policies=(LIMITED, policy(labels=(LABEL, LABEL)))),
)


class Case:
    """A composer over one session in cgroup 77."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.session: Session = GOVERNED
        self.answer = Decision(Verdict.ALLOW, "network.connect lists it", Mechanism.CGROUP_BPF, 0)
        monkeypatch.setattr("monitor.policy.decide.decide", lambda _plan, _action: self.answer)
        self.composer = Composer(lambda cgroup: self.session if cgroup == 77 else None)

    def draft(self, event: AnyEvent) -> Draft:
        draft = self.composer.compose(event)
        assert draft is not None
        return draft


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(monkeypatch)


BASE: dict[str, Any] = {
    "time": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    "cgroup": 77,
    "pid": 100,
    "tid": 100,
    "comm": "curl",
    "count": 1,
    "operation": NetOperation.CONNECT,
    "protocol": 6,
    "address": "192.0.2.1",
    "port": 443,
    "policy": 5,
    "rule": 0,
}


def net(cause: DenyCause, **more: Any) -> NetEvent:
    values = {"family": 2, "type": 1, "observed": False, "cause": cause}
    return NetEvent(**(BASE | values | more))


def earned(**more: Any) -> LabelEvent:
    return LabelEvent(**(BASE | {"policy": 8} | more))


def test_a_label_is_earned(case: Case) -> None:
    draft = case.draft(earned())
    assert (draft.verb, draft.object, draft.verdict) == (Verb.LABEL_EARN, "seen", Verdict.ALLOW)
    assert draft.reason == "net.connect 192.0.2.1:443/tcp"
    assert draft.rule == "labels: seen (coder.yaml:28)"
    assert draft.details["link"] == 1
    assert (draft.mechanism, draft.pid) == (Mechanism.CGROUP_BPF, 100)


def test_a_label_that_is_not_known_is_recorded_all_the_same(case: Case) -> None:
    assert case.draft(earned(policy=99)).object == "of policy 99"
    assert case.draft(earned(cgroup=78)).session == ""


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (DenyCause.UNLISTED, "the session has the label seen, which takes it away"),
        (DenyCause.RULE, "the session has the label seen, which takes it away"),
        (
            DenyCause.UNANSWERED,
            "the session has the label seen: it needs an approval, and has none",
        ),
    ],
)
def test_what_a_label_takes_away(case: Case, cause: DenyCause, reason: str) -> None:
    draft = case.draft(net(cause, policy=8))
    assert (draft.verdict, draft.reason) == (Verdict.DENY, reason)
    assert draft.rule == str(ONLY)
    assert (draft.details["link"], draft.details["label"]) == (1, "seen")
    assert f"rictl label remove {GOVERNED.id} seen" in draft.details["remedy"]
    assert case.draft(net(cause, policy=8, rule=-1)).rule == ""


@pytest.mark.parametrize(
    ("kind", "reason", "key"),
    [
        (BudgetKind.CONNECTS, "10 connections a minute", "connects_per_minute"),
        (BudgetKind.DESTINATIONS, "3 different destinations", "destinations"),
        (BudgetKind.EGRESS, "4096 bytes sent", "egress_bytes"),
        (BudgetKind.EXECS, "5 program starts a minute", "execs_per_minute"),
        (BudgetKind.DELETES, "6 removals a minute", "deletes_per_minute"),
    ],
)
def test_a_budget_that_is_used_up(case: Case, kind: BudgetKind, reason: str, key: str) -> None:
    draft = case.draft(net(DenyCause.OVER_BUDGET, rule=int(kind)))
    assert draft.reason == f"the budget of {reason} is used up"
    assert (draft.verdict, draft.mechanism, draft.rule) == (Verdict.DENY, Mechanism.BUDGET, "")
    assert draft.details["budget"] == kind.name.lower()
    assert (draft.details["link"], draft.details["remedy"]) == (0, f"raise limits.{key}")


@pytest.mark.parametrize(("policy_id", "kind"), [(5, 99), (5, -1), (6, 0), (99, 0)])
def test_a_budget_that_the_plan_does_not_have(case: Case, policy_id: int, kind: int) -> None:
    draft = case.draft(net(DenyCause.OVER_BUDGET, policy=policy_id, rule=kind))
    assert draft.reason == "a budget is used up"


def test_an_ask_that_nobody_answered(case: Case) -> None:
    draft = case.draft(net(DenyCause.UNANSWERED))
    assert draft.reason == "a rule asks about it, and nobody has approved it"
    assert (draft.verdict, draft.rule) == (Verdict.DENY, str(RULE))
    assert "rictl asks" in draft.details["remedy"]


def test_an_approval(case: Case) -> None:
    case.answer = Decision(Verdict.ASK, "network.ask lists it", Mechanism.CGROUP_BPF, 0)
    draft = case.draft(net(DenyCause.NONE))
    assert (draft.verdict, draft.reason) == (
        Verdict.ALLOW, "a rule asks about it, and it was approved",
    )  # fmt: skip


def test_a_condition_that_does_not_hold(case: Case) -> None:
    draft = case.draft(net(DenyCause.CONDITION))
    assert draft.reason == "something that must hold for the session does not hold now"
    assert "link" not in draft.details
    assert "goes on by itself" in draft.details["remedy"]


def test_observed(case: Case) -> None:
    for cause in (DenyCause.UNANSWERED, DenyCause.OVER_BUDGET):
        assert case.draft(net(cause, observed=True)).verdict is Verdict.WOULD_DENY
    assert case.draft(net(DenyCause.UNLISTED, policy=8, observed=True)).verdict is (
        Verdict.WOULD_DENY
    )


def test_another_plan_of_the_same_session(case: Case) -> None:
    """Its numbers are other ones; what its processes run is known still."""
    case.draft(net(DenyCause.NONE))
    case.composer._subjects[77].runs(100, "/usr/bin/curl")
    case.session = session(
        policies=(11, 12),
        labels=(13, 14),
        plan=plan(policies=(LIMITED, policy(labels=(LABEL, LABEL)))),
    )
    draft = case.draft(net(DenyCause.UNLISTED, policy=14))
    assert (draft.details["label"], draft.exe) == ("seen", "/usr/bin/curl")
    assert case.draft(net(DenyCause.RULE, policy=5)).rule == ""


@pytest.mark.parametrize("cause", set(DenyCause) - {DenyCause.NONE})
def test_a_start_that_was_killed_is_recorded_whatever_the_cause(cause: DenyCause) -> None:
    who = (time.clock_gettime_ns(time.CLOCK_BOOTTIME), 77, 100, 100, "cat", 1)
    event = ExecEvent(*who, "/x", ("x",), truncated=False, device=1, inode=2, cause=cause)
    found = Composer(lambda _cgroup: session()).compose(event)
    assert found is not None
    assert (found.verdict, found.verb) == (Verdict.KILL, Verb.PROC_EXEC)
    assert found.reason
