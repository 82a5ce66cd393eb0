# SPDX-License-Identifier: Apache-2.0
"""Asks: what is one ask, how far an answer reaches, what time and restarts do to both."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest

from monitor.daemon.asks import asks as module
from monitor.daemon.asks import outcomes
from monitor.daemon.asks.asks import AskOver, UnknownAsk
from monitor.daemon.asks.reply import Reply
from monitor.policy.action import Verb, Verdict
from monitor.policy.plan import Approval
from monitor.session.asks import ONCE, SESSION, Answer, How, Scope
from monitor.session.session import Denial, State
from tests.support.asking import SECOND, Clock, Gate, World, wanted


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(outcomes, "boottime", made)
    return made


@pytest.fixture
def world(tmp_path: Path, clock: Clock) -> World:
    return World(tmp_path)


def test_an_approval_lets_one_action_go_on(world: World) -> None:
    gate = world.hold()
    assert gate.held
    assert gate.ask is not None
    assert [ask.id for ask in world.asks.waiting()] == [gate.ask.id]
    done = world.approve(gate.ask, why="release")
    assert gate.answer == Answer(True, How.PERSON, "user:alice", "release", gate.ask.id)
    assert gate.answer.reason == "approved by user:alice: release"
    assert (done.let, done.more) == (1, "")
    assert world.asks.waiting() == []
    again = world.hold()
    assert again.held, "once is once"
    world.deny(again.ask)
    assert not again.answer.allow


def test_the_records_say_what_was_asked_and_who_answered(world: World, clock: Clock) -> None:
    gate = world.hold()
    clock.pass_(2.5)
    world.deny(gate.ask, why="not on friday")
    assert gate.ask is not None
    (raised,) = world.recorded(Verb.ASK_RAISE)
    assert (raised.verdict, raised.object, raised.pid) == (Verdict.ASK, "/usr/bin/git", 4711)
    assert raised.details["argv"] == ["git", "push", "origin", "main"]
    assert raised.details["ask"] == gate.ask.id
    assert raised.rule.startswith("exec.ask")
    assert raised.reason == "pushes are reviewed"
    (answered,) = world.recorded(Verb.ASK_ANSWER)
    assert answered.verdict is Verdict.DENY
    assert answered.reason == "denied by user:bob: not on friday"
    assert answered.details["held"] == 2.5
    assert (answered.details["by"], answered.details["scope"]) == ("user:bob", "once")
    assert [text for _session, text in world.told] == [
        "proc.exec /usr/bin/git is held until it is answered"
        f" (ask {gate.ask.id}): pushes are reviewed",
        "proc.exec /usr/bin/git is denied by user:bob: not on friday",
    ]


def test_the_same_is_one_ask_with_a_count(world: World) -> None:
    gates = [world.hold() for _ in range(5)]
    (ask,) = world.asks.waiting()
    assert ask.count == 5
    assert len(world.recorded(Verb.ASK_RAISE)) == 1
    world.deny(ask)
    assert not any(gate.answer.allow for gate in gates), "no is for all that wait"


def test_one_yes_is_for_one_action_and_the_rest_is_asked_anew(world: World) -> None:
    gates = [world.hold() for _ in range(3)]
    done = world.approve(gates[0].ask)
    assert [gate.held for gate in gates] == [False, True, True]
    (rest,) = world.asks.waiting()
    assert (rest.id, rest.count) == (done.more, 2)
    assert world.recorded(Verb.ASK_ANSWER)[0].details["more"] == done.more
    world.approve(rest, Scope(uses=5))
    assert all(gate.answer.allow for gate in gates)
    # Three are left of the five.
    assert [world.hold().held for _ in range(4)] == [False, False, False, True]


@pytest.mark.parametrize(
    "other",
    [
        {"session": "s2"},
        {"link": 1},
        {"verb": Verb.FILE_OPEN},
        {"key": "8:1:1234 git push origin other"},
    ],
    ids=str,
)
def test_an_approval_is_for_nothing_else(world: World, other: dict[str, object]) -> None:
    world.start("s2")
    world.approve(world.hold().ask, SESSION)
    assert world.hold().answer.allow
    assert world.hold(**other).held


def test_each_link_is_its_own_ask(world: World) -> None:
    outer, inner = world.hold(link=0), world.hold(link=1)
    world.approve(outer.ask)
    assert inner.held
    assert len(world.asks.waiting()) == 1


def test_an_answer_for_a_time(world: World, clock: Clock) -> None:
    gate = world.hold()
    world.approve(gate.ask, Scope(uses=None, seconds=600))
    assert gate.answer.uses is None
    assert gate.answer.expires == clock.now + 600 * SECOND
    clock.pass_(599)
    later = world.hold().answer
    assert (later.allow, later.how, later.by) == (True, How.STANDING, "user:alice")
    assert later.expires == gate.answer.expires
    clock.pass_(1)
    assert world.hold().held
    world.asks.tick()
    assert len(world.asks.standing) == 0


def test_an_answer_for_the_session_ends_with_it(world: World) -> None:
    world.deny(world.hold().ask, SESSION, "never")
    answer = world.hold().answer
    assert (answer.allow, answer.reason) == (False, "denied by user:bob: never")
    world.end("s1")
    world.asks.tick()
    assert len(world.asks.standing) == 0
    assert world.asks.docket.standing() == []


def test_uses_that_cannot_be_written_down_are_not_given(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a daemon that is killed would give them twice."""
    world.approve(world.hold().ask, Scope(uses=3))
    monkeypatch.setattr(world.asks.docket, "use", lambda _standing: False)
    assert world.hold().held


# -- time ------------------------------------------------------------------------------------------


def test_nobody_answers(world: World, clock: Clock) -> None:
    world.start("s1", Approval(timeout=60, fallback=Verdict.ALLOW))
    gate = world.hold()
    world.asks.reached([gate.ask.id] if gate.ask else [])
    clock.pass_(59.9)
    world.asks.tick()
    assert gate.held
    clock.pass_(0.1)
    world.asks.tick()
    assert (gate.answer.allow, gate.answer.how) == (False, How.TIMEOUT)
    assert gate.answer.why == "nobody answered within 60 s"


@pytest.mark.parametrize("fallback", [Verdict.ALLOW, Verdict.DENY])
def test_nobody_could_be_asked(world: World, clock: Clock, fallback: Verdict) -> None:
    world.start("s1", Approval(timeout=60, fallback=fallback))
    gate = world.hold()
    clock.pass_(60)
    world.asks.tick()
    assert gate.answer.allow is (fallback is Verdict.ALLOW)
    assert gate.answer.how is How.FALLBACK
    assert world.hold().held, "it is an answer for one action"


def test_the_host_clock_decides_nothing(
    world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = world.hold()
    standing = world.hold(key="other")
    world.approve(standing.ask, Scope(uses=None, seconds=600))
    for jump in (-86400 * 400, 86400 * 400):
        now = time.time()
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda now=now, jump=jump: now + jump)
            world.asks.tick()
            assert gate.held
            assert world.hold(key="other").answer.allow
    clock.pass_(300)
    world.asks.tick()
    assert not gate.held


# -- limits ----------------------------------------------------------------------------------------


def test_more_asks_than_the_profile_lets_are_refused(world: World, clock: Clock) -> None:
    world.start("s1", Approval(per_minute=3))
    world.start("s2")
    gates = [world.hold(key=str(number)) for number in range(10)]
    assert [gate.held for gate in gates] == [True] * 3 + [False] * 7
    assert gates[9].answer.how is How.LIMIT
    assert gates[9].answer.why == "more than 3 asks within a minute"
    assert world.hold(session="s2").held, "another session has its own"
    assert world.hold(key="0").held, "what is asked already costs nothing"
    clock.pass_(60)
    world.asks.tick()
    assert world.hold(key="new").held
    told = world.recorded(Verb.ASK_ANSWER, Verdict.DENY)
    assert [each.count for each in told] == [1, 6], "the first at once, the others together"


def test_what_is_withdrawn_counts_as_raised(world: World) -> None:
    world.start("s1", Approval(per_minute=3))
    for _ in range(3):
        gate = world.hold()
        assert gate.ask is not None
        world.asks.withdraw(gate.ask, gate)
    assert not world.hold().held


def test_a_host_holds_so_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 2)
    assert [world.hold(key=str(number)).held for number in range(3)] == [True, True, False]


def test_ten_thousand_asks_at_once(world: World, clock: Clock) -> None:
    for number in range(1000):
        world.start(f"t{number}", Approval(timeout=30))
    began = time.monotonic()
    gates = [
        world.hold(session=f"t{number % 1000}", key=str(number // 1000)) for number in range(10_000)
    ]
    raised = time.monotonic() - began
    assert len(world.asks.waiting()) == len(world.asks) == world.asks.held == 10_000
    began = time.monotonic()
    world.asks.tick()
    idle = time.monotonic() - began
    for gate in gates[:5_000]:
        world.approve(gate.ask)
    clock.pass_(30)
    began = time.monotonic()
    world.asks.tick()
    ended = time.monotonic() - began
    assert sum(gate.answer.allow for gate in gates) == 5_000
    assert world.asks.waiting() == []
    assert len(world.recorded(Verb.ASK_RAISE)) == len(world.recorded(Verb.ASK_ANSWER)) == 10_000
    # Far above what it takes here; what grows with the square of the number would not fit.
    assert raised < 20, raised
    assert idle < 1, idle
    assert ended < 10, ended


def test_ten_thousand_of_the_same(world: World) -> None:
    gates = [world.hold() for _ in range(10_000)]
    (ask,) = world.asks.waiting()
    assert ask.count == 10_000
    world.approve(ask, SESSION)
    assert all(gate.answer.allow for gate in gates)
    assert len(world.records) == 2


# -- who is gone, and who was faster ---------------------------------------------------------------


def test_two_answer_at_once(world: World) -> None:
    gate = world.hold()
    world.deny(gate.ask, why="mine")
    with pytest.raises(UnknownAsk):
        world.approve(gate.ask)
    assert gate.ask is not None
    with pytest.raises(AskOver, match=r"was denied by user:bob: mine \([0-9]+ s ago\)"):
        world.asks.open(gate.ask.id, lambda _ask: True)
    assert not gate.answer.allow


def test_the_held_program_is_gone(world: World) -> None:
    first, second = world.hold(), world.hold(pid=4712)
    assert first.ask is not None
    world.asks.withdraw(first.ask, first)
    (ask,) = world.asks.waiting()
    assert (ask.count, ask.wanted.pid) == (1, 4712), "shown is one that still waits"
    world.asks.withdraw(ask, second)
    assert world.asks.waiting() == []
    assert first.held
    assert second.held
    with pytest.raises(AskOver, match="nothing waits for it any more"):
        world.asks.open(ask.id, lambda _ask: True)
    world.asks.withdraw(ask, second)  # nothing happens
    assert [each.details["how"] for each in world.recorded(Verb.ASK_ANSWER)] == ["gone"]


def test_what_waits_for_the_next_ask_can_be_withdrawn_by_the_first(world: World) -> None:
    gates = [world.hold() for _ in range(2)]
    world.approve(gates[0].ask)
    assert gates[1].ask is not None
    world.asks.withdraw(gates[1].ask, gates[1])
    assert world.asks.waiting() == []


def test_one_action_waits_once(world: World) -> None:
    gate = world.hold()
    with pytest.raises(ValueError, match="waits"):
        world.asks.raise_(wanted(key="other"), gate)


def test_a_gate_that_fails_harms_no_other(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(_answer: Answer) -> None:
        raise RuntimeError("broken")

    world.asks.raise_(wanted(), fails)
    gate = world.hold()
    world.deny(gate.ask)
    assert not gate.held
    assert world.context.recording.faults == 1
    assert "broken" in capsys.readouterr().err


def test_a_gate_may_raise_the_next_while_it_is_answered(world: World) -> None:
    """Each link's ask after the other's, of two actions that wait for the same."""
    inner = [Gate(wanted(link=1)), Gate(wanted(link=1))]
    left = iter(inner)

    def next_link(_answer: Answer) -> None:
        gate = next(left)
        gate.ask = world.asks.raise_(gate.wanted, gate)

    class Outer(Gate):
        def __call__(self, answer: Answer) -> None:
            super().__call__(answer)
            next_link(answer)

    outer = [Outer(), Outer()]
    for gate in outer:
        gate.ask = world.asks.raise_(gate.wanted, gate)
    world.approve(outer[0].ask, SESSION)
    (ask,) = world.asks.waiting()
    assert (ask.wanted.link, ask.count) == (1, 2)


def test_what_is_asked_anew_is_known_before_anything_goes_on(world: World) -> None:
    """Whoever goes on may withdraw the others, or ask for the same again."""
    others = [Gate(), Gate()]

    def goes_on(_answer: Answer) -> None:
        (ask,) = world.asks.waiting()
        assert ask.count == 2
        world.asks.withdraw(ask, others[0])
        late.ask = world.asks.raise_(wanted(), late)

    late = Gate()
    first = world.asks.raise_(wanted(), goes_on)
    for other in others:
        other.ask = world.asks.raise_(wanted(), other)
    world.approve(first)
    (ask,) = world.asks.waiting()
    assert ask.count == 2
    world.deny(ask)
    assert others[0].held
    assert not others[1].answer.allow
    assert not late.answer.allow
    assert world.recorded(Verb.ASK_ANSWER)[1].details["actions"] == 2


# -- authority that ends ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"state": State.ENDING}, "its session has ended"),
        ({"denied": Denial.REVOKED}, "its session is revoked"),
        ({"expires_boottime": 1}, "its session has expired"),
    ],
)
def test_a_session_without_authority_gets_no_answer_but_no(
    world: World, change: dict[str, object], says: str
) -> None:
    gate = world.hold()
    world.approve(world.hold(key="stands").ask, SESSION)
    world.sessions["s1"] = replace(world.sessions["s1"], **change)  # type: ignore[arg-type]
    with pytest.raises(AskOver, match=says):
        world.approve(gate.ask)
    for key in ("stands", "new"):
        answer = world.hold(key=key).answer
        assert (answer.allow, answer.how, answer.why) == (False, How.OVER, says)
    world.asks.tick()
    assert (gate.answer.allow, gate.answer.why) == (False, says)


def test_a_session_that_nobody_knows(world: World) -> None:
    assert world.hold(session="gone").answer.how is How.OVER


# -- restarts --------------------------------------------------------------------------------------


def test_asks_stand_after_a_restart_under_the_same_id(world: World, clock: Clock) -> None:
    gate = world.hold()
    assert gate.ask is not None
    world.restart()
    (ask,) = world.asks.waiting()
    assert (ask.id, ask.count, ask.deadline) == (gate.ask.id, 0, gate.ask.deadline)
    clock.pass_(10)
    again = world.hold()
    assert again.ask is not None
    assert again.ask.id == gate.ask.id
    clock.pass_(10)
    world.asks.tick()
    assert again.held
    world.approve(again.ask)
    assert again.answer.allow
    assert len(world.recorded(Verb.ASK_RAISE)) == 1


def test_what_no_gate_raises_again_is_given_up(world: World, clock: Clock) -> None:
    gate = world.hold()
    world.restart()
    clock.pass_(15)
    world.asks.tick()
    assert world.asks.waiting() == []
    world.restart()
    assert world.asks.waiting() == []
    assert gate.ask is not None
    assert not world.asks.waits(gate.ask.id)


def test_an_answer_between_restart_and_gate_is_kept_for_it(world: World, clock: Clock) -> None:
    gate = world.hold()
    world.restart()
    world.approve(gate.ask)
    assert world.hold().answer.allow
    assert world.hold().held, "once is once"
    world.restart()
    (ask,) = world.asks.waiting()
    world.approve(ask)
    clock.pass_(15)
    assert world.hold().held, "it is not kept for long"


def test_after_a_restart_the_fallback_is_no(world: World, clock: Clock) -> None:
    """Somebody may have seen the ask, which nobody remembers."""
    world.start("s1", Approval(timeout=60, fallback=Verdict.ALLOW))
    world.hold()
    world.restart()
    gate = world.hold()
    clock.pass_(60)
    world.asks.tick()
    assert gate.answer.how is How.TIMEOUT


def test_standing_answers_survive_and_used_ones_do_not(world: World) -> None:
    world.approve(world.hold().ask, Scope(uses=3))
    world.approve(world.hold(key="all").ask, SESSION)
    assert world.hold().answer.allow
    world.restart()
    assert [world.hold().held for _ in range(2)] == [False, True]
    assert world.hold(key="all").answer.allow


def test_a_gate_that_dies_leaves_its_asks_to_the_next(world: World, clock: Clock) -> None:
    world.start("s1", Approval(per_minute=1))
    gates = [world.hold() for _ in range(2)]
    for gate in gates:
        world.asks.detach(gate)
    (ask,) = world.asks.waiting()
    assert ask.count == 0
    clock.pass_(10)
    world.asks.tick()
    again = world.hold()
    assert again.ask is not None
    assert again.ask.id == ask.id, "and it counts as asked once"
    clock.pass_(10)
    world.asks.tick()
    assert again.held
    world.asks.detach(again)
    world.asks.detach(again)
    world.approve(again.ask)
    assert world.hold().answer.allow, "what was answered in between is for it"
    assert not any(gate.answers for gate in gates)


def test_what_the_next_gate_does_not_raise_is_given_up(world: World, clock: Clock) -> None:
    world.asks.detach(world.hold())
    clock.pass_(15)
    world.asks.tick()
    assert world.asks.waiting() == []


def test_a_killed_worker_gives_nothing_twice(world: World) -> None:
    """The daemon dies when the first of two is let go on."""

    def dies(_answer: Answer) -> None:
        raise KeyboardInterrupt

    world.asks.raise_(wanted(), dies)
    (ask,) = world.asks.waiting()
    with pytest.raises(KeyboardInterrupt):
        world.approve(ask)
    world.restart()
    assert world.asks.waiting() == []
    assert world.hold().held


@pytest.mark.parametrize("moment", ["settle", "record"])
def test_a_worker_that_is_killed_before_it_lets_go_lets_nothing_go(
    world: World, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    gate = world.hold()

    def dies(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "settle":
            patch.setattr(world.asks.docket, "settle", dies)
        else:
            patch.setattr(world.context.recording, "record", dies)
            world.asks.telling._drafts.clear()
        with pytest.raises(KeyboardInterrupt):
            world.approve(gate.ask, Scope(uses=2))
    assert gate.held
    world.restart()
    # Committed or not: never more than was said.
    later = [world.hold().held for _ in range(3)]
    assert later.count(False) <= 2


def test_a_full_disk_holds_asks_in_memory(world: World) -> None:
    world.asks.docket._database.execute("PRAGMA query_only = 1")
    gate = world.hold()
    assert gate.held
    assert world.asks.docket.problem
    world.approve(gate.ask)
    assert gate.answer.allow
    world.restart()
    assert world.asks.waiting() == []


def test_names_of_any_bytes(world: World) -> None:
    odd = "/work/\udcff\x1b[31m\n"
    gate = world.hold(object=odd, argv=(odd,), key=odd, cwd=odd)
    world.approve(gate.ask, Scope(uses=3), "\udcff")
    world.restart()
    assert world.hold(object=odd, key=odd).answer.allow
    world.hold(object=odd, key=odd + "2")
    world.restart()
    (ask,) = world.asks.waiting()
    assert ask.wanted.object == odd


def test_the_database_of_an_earlier_version_is_taken(tmp_path: Path, clock: Clock) -> None:
    sqlite3.connect(tmp_path / "state.db").execute("CREATE TABLE sessions (id TEXT)").close()
    assert World(tmp_path).hold().held


def test_what_is_over_is_kept_for_a_while(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.session.docket.KEEP_ANSWERED", 2)
    gates = [world.hold(key=str(number)) for number in range(4)]
    for gate in gates:
        world.deny(gate.ask)
        time.sleep(0.002)
    world.asks.docket.prune()
    found = [world.asks.docket.closed(gate.ask.id) for gate in gates if gate.ask]
    assert [bool(each) for each in found] == [False, False, True, True]


def test_references(world: World) -> None:
    gate = world.hold()
    assert gate.ask is not None
    for reference in (gate.ask.id, gate.ask.id[:4]):
        assert world.asks.open(reference, lambda _ask: True).id == gate.ask.id
    for wrong in ("", gate.ask.id[:3], "zzzz", gate.ask.id + "0", "%", "\udcff" * 4):
        with pytest.raises(UnknownAsk):
            world.asks.open(wrong, lambda _ask: True)
    with pytest.raises(UnknownAsk):
        world.asks.open(gate.ask.id, lambda _ask: False)


def test_two_megabytes_of_arguments(world: World) -> None:
    """What is shown is cut and says so; what is left out is part of the key all the same."""
    argv = ("rm", *["x" * 1000] * 2000)
    gates = [world.hold(argv=(*argv, end), key=f"8:1:9 {argv} {end}") for end in "ab"]
    first, second = world.asks.waiting()
    assert first.wanted.place != second.wanted.place
    assert len("".join(first.wanted.argv)) < 17_000
    assert first.wanted.argv[:2] == argv[:2]
    assert first.wanted.argv[-1] == "[1983636 more characters in 1985 arguments]"
    world.approve(first, SESSION)
    assert [gate.held for gate in gates] == [False, True]
    assert not world.hold(argv=(*argv, "a"), key=f"8:1:9 {argv} a").held


@pytest.mark.parametrize("argv", [(), ("a",), ("", ""), ("x" * 16_383,), ("x" * 20_000,)], ids=len)
def test_what_fits_is_not_cut(argv: tuple[str, ...]) -> None:
    kept = wanted(argv=argv).bounded().argv
    if sum(map(len, argv)) < 16_384:
        assert kept == argv
    else:
        assert kept == ("x" * 16_384, "[3616 more characters in 1 arguments]")


def test_rows_of_the_same_place(world: World) -> None:
    """A change that could not be written leaves an ask behind that was answered."""
    gate = world.hold()
    assert gate.ask is not None
    world.asks.docket.add(replace(gate.ask, id="ffffffff"))
    world.restart()
    again = world.hold()
    assert again.ask is not None
    other = ({"ffffffff", gate.ask.id} - {again.ask.id}).pop()
    world.asks.answer(other, Reply(False, ONCE, ""), How.PERSON, "user:bob")
    assert world.hold().answer.by == "user:bob", "an answer that nobody waited for"
    assert world.hold().ask == replace(again.ask, count=2)
