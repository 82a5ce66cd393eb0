# SPDX-License-Identifier: Apache-2.0
"""Whatever happens in which order: nothing goes on without a yes that was for it."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.daemon.asks import outcomes
from monitor.daemon.asks.asks import AskOver, UnknownAsk
from monitor.daemon.asks.reply import Reply
from monitor.policy.plan import Approval
from monitor.session.asks import SESSION, Ask, How, Scope
from tests.support.asking import SECOND, Clock, Gate, World

KEYS = st.sampled_from(["push", "pull"])
SCOPES = st.one_of(
    st.integers(1, 4).map(lambda uses: Scope(uses=uses)),
    st.integers(1, 400).map(lambda seconds: Scope(uses=None, seconds=seconds)),
    st.just(SESSION),
)
STEPS = st.one_of(
    st.tuples(st.just("hold"), KEYS, st.integers(1, 3)),
    st.tuples(st.just("answer"), st.booleans(), SCOPES),
    st.tuples(st.just("withdraw"), st.integers(0, 9)),
    st.tuples(st.just("pass"), st.integers(0, 200)),
    st.tuples(st.just("restart")),
)


class Model:
    """What people said, counted in the simplest way there is."""

    def __init__(self) -> None:
        self.uses: Counter[str] = Counter()  # yes for so many actions
        self.until: dict[str, int] = {}  # yes for all until then; 0: for good

    def said(self, ask: Ask, scope: Scope, now: int) -> None:
        key = ask.wanted.key
        if scope.uses is not None:
            self.uses[key] += scope.uses
        else:
            self.until[key] = 0 if scope.seconds is None else now + scope.seconds * SECOND

    def check(self, gate: Gate, now: int) -> None:
        """A gate was let go on."""
        key = gate.wanted.key
        if (until := self.until.get(key)) is not None and (until == 0 or now < until):
            return
        self.uses[key] -= 1
        assert self.uses[key] >= 0, "more went on than was approved"


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_nothing_goes_on_without_a_yes(steps: list[tuple[object, ...]]) -> None:
    clock, before = Clock(), outcomes.boottime
    outcomes.boottime = clock
    try:
        with tempfile.TemporaryDirectory() as folder:
            _run(World(Path(folder)), clock, steps)
    finally:
        outcomes.boottime = before


def _run(world: World, clock: Clock, steps: list[tuple[object, ...]]) -> None:
    world.start("s1", Approval(timeout=300, per_minute=15))
    model, gates = Model(), list[Gate]()
    judged: list[Gate] = []

    def judge() -> None:
        for gate in gates:
            assert len(gate.answers) <= 1
            if gate.answers and not any(gate is each for each in judged):
                judged.append(gate)
                if gate.answer.allow:
                    assert gate.answer.how in (How.PERSON, How.STANDING)
                    model.check(gate, clock.now)

    for step in steps:
        match step:
            case ("hold", str(key), int(count)):
                for _ in range(count):
                    gates.append(world.hold(key=key))
                    judge()
            case ("answer", bool(allow), Scope() as scope):
                for ask in world.asks.waiting()[:1]:
                    with contextlib.suppress(UnknownAsk, AskOver):
                        if allow:
                            model.said(ask, scope, clock.now)
                        world.asks.answer(ask.id, Reply(allow, scope, ""), How.PERSON, "user:x")
            case ("withdraw", int(number)):
                held = [gate for gate in gates if gate.held]
                if number < len(held) and (known := held[number].ask) is not None:
                    world.asks.withdraw(known, held[number])
                    gates.remove(held[number])
            case ("pass", int(seconds)):
                clock.pass_(seconds)
                world.asks.tick()
            case _:
                gates = [gate for gate in gates if not gate.held]
                world.restart()
        judge()
        open_ = world.asks.waiting()
        assert len({ask.wanted.place for ask in open_}) == len(open_) == len(world.asks)
        assert sum(ask.count for ask in open_) == world.asks.held
        assert world.asks.held == sum(gate.held for gate in gates)
    clock.pass_(300)
    world.asks.tick()
    judge()
    assert not any(gate.held for gate in gates)
    assert world.asks.waiting() == world.asks.docket.waiting() == []
