# SPDX-License-Identifier: Apache-2.0
"""Signals from outside: their shape, whom they concern, and what stands of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from monitor.policy.holding import Figures, holding, risk_reaction
from monitor.policy.plan import Conditions, Reaction, Reactions, RiskStep, TimeWindow
from monitor.session.signal import CAEP, Kind, Malformed, Signal, read
from monitor.session.signals import Standing


def document(name: str, event: Any, subject: Any = "user:alice") -> dict[str, Any]:
    return {"sub_id": subject, "events": {name: event}}


def test_caep_events_are_read() -> None:
    whole = {
        "iss": "https://idp.example/",
        "jti": "1",
        "iat": 1,
        "aud": "host",
        "sub_id": {"format": "opaque", "id": "user:alice"},
        "events": {
            f"{CAEP}session-revoked": {"reason_admin": {"en": "left", "de": "weg"}},
        },
    }
    assert read(whole) == Signal(
        Kind.REVOKED, "user:alice", why="left", issuer="https://idp.example/"
    )
    assert read(document("assurance-level-change", {"change_direction": "increase"})) == Signal(
        Kind.ASSURANCE, "user:alice", fell=False
    )
    assert read(document("risk-score-change", {"score": 77.9})).score == 77
    assert read(document(f"{CAEP}risk-level-change", {"current_level": "high"})).score == 80
    uri = {"format": "uri", "uri": "spiffe://x.example/agent/coder"}
    assert read(document("session-revoked", {"subject": uri})).subject == uri["uri"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "no JSON object"),
        ({}, "events"),
        ({"events": {}, "sub_id": "user:a"}, "one event"),
        (document("x", {}) | {"more": 1}, "unknown field"),
        (document("nonsense", {}), "unknown event"),
        (document("session-revoked", []), "the event"),
        (document("session-revoked", {}, "alice"), "no subject"),
        (document("session-revoked", {}, {"format": "email", "email": "a@b"}), "opaque or uri"),
        (document("session-revoked", {}, {"format": "opaque"}), "sub_id.id"),
        (document("session-revoked", {}, None), "sub_id"),
        (document("session-revoked", {}, "user:" + "x" * 2000), "no subject"),
        (document("session-revoked", {"reason_admin": 3}), "reason_admin"),
        (document("session-revoked", {"reason_admin": "x" * 2000}), "reason_admin"),
        (document("risk-score-change", {}), "current_level"),
        (document("risk-score-change", {"score": 101}), "0 to 100"),
        (document("risk-score-change", {"score": -1}), "0 to 100"),
        (document("risk-score-change", {"score": True}), "0 to 100"),
        (document("risk-score-change", {"score": float("nan")}), "0 to 100"),
        (document("risk-score-change", {"score": "9"}), "0 to 100"),
        (document("assurance-level-change", {}), "change_direction"),
        (document("assurance-level-change", {"change_direction": "sideways"}), "change_direction"),
    ],
)
def test_what_is_malformed_says_so(given: Any, said: str) -> None:
    with pytest.raises(Malformed, match=said):
        read(given)


def test_what_stands_survives_and_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    first = Standing(path)
    first.put(Signal(Kind.RISK, "user:alice", score=50))
    first.put(Signal(Kind.RISK, "user:alice", score=80, why="travel"))
    first.put(Signal(Kind.ASSURANCE, "user:alice"))
    first.put(Signal(Kind.REVOKED, "session:gone"))
    first.drop("user:alice", Kind.ASSURANCE)
    first.drop("user:nobody", Kind.RISK)
    first.close()
    second = Standing(path)
    assert Signal(Kind.RISK, "user:alice", score=80, why="travel") in second.all()
    second.prune(["other"])
    assert [each.subject for each in second.all()] == ["user:alice"]
    second.close()


def test_on_a_full_disk_it_counts_from_memory(tmp_path: Path) -> None:
    standing = Standing(tmp_path / "state.db")
    standing._database.execute("PRAGMA query_only = ON")
    standing.put(Signal(Kind.RISK, "user:alice", score=50))
    assert standing.problem
    assert standing.all()
    standing._database.execute("PRAGMA query_only = OFF")
    standing.save()
    assert not standing.problem
    standing.close()
    again = Standing(tmp_path / "state.db")
    assert again.all() == (Signal(Kind.RISK, "user:alice", score=50),)
    again.close()


@pytest.mark.parametrize(
    ("score", "reaction"),
    [(0, "nothing"), (29, "nothing"), (30, "deny"), (59, "deny"), (60, "kill"), (100, "kill")],
)
def test_the_strictest_step_up_to_a_score_follows(score: int, reaction: str) -> None:
    steps = (RiskStep(30, Reaction.DENY), RiskStep(60, Reaction.KILL), RiskStep(90, Reaction.DENY))
    assert risk_reaction(Reactions(risk=steps), score).value == reaction


def test_conditions_hold_or_say_what_does_not() -> None:
    calm = Figures(1.0, 1 << 30)
    assert holding(Conditions(), 0, calm).reason == ""
    assert "load_below" in holding(Conditions(load=1.0), 0, calm).reason
    assert holding(Conditions(load=1.1), 0, calm).reason == ""
    assert "memory_available" in holding(Conditions(memory=1 << 31), 0, calm).reason
    assert holding(Conditions(memory=1 << 30), 0, calm).reason == ""
    never = Conditions(windows=((TimeWindow((), 0, 1440, "UTC"),),))
    assert "it may act" in holding(never, 0, calm).reason
    unknown = Conditions(windows=((TimeWindow((0,), 0, 1440, "Mars/Olympus"),),))
    assert "time zone" in holding(unknown, 0, calm).reason
    assert not holding(unknown, 0, calm).host


@pytest.mark.parametrize("now", [-1e18, -1.0, 0.0, 1e11, 1e18, float("inf"), float("nan")])
def test_a_clock_gone_mad_closes(now: float) -> None:
    """Whatever the clock says, the answer is one, and nonsense is none that opens."""
    windows = ((TimeWindow((0, 1, 2, 3, 4), 540, 1020, "UTC"),),)
    found = holding(Conditions(windows=windows), now, Figures(0, 0))
    if not -1e9 < now < 1e12:
        assert found.reason
