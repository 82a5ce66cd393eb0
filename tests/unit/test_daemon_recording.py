# SPDX-License-Identifier: Apache-2.0
"""Recording while the store cannot be written: what waits, what is counted, in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from monitor.audit.record import Draft
from monitor.audit.store import StoreError
from monitor.daemon import recording as module
from monitor.daemon.recording import Recording
from monitor.policy.action import Verb, Verdict


class Store:
    """A store that can be full, and one kind of draft that it never takes."""

    def __init__(self) -> None:
        self.full = False
        self.drafts: list[Draft] = []

    def append(self, drafts: Sequence[Draft]) -> None:
        if self.full:
            raise StoreError("cannot write: disk is full")
        if any(draft.object == "poison" for draft in drafts):
            raise TypeError("not JSON")
        self.drafts += drafts

    @property
    def objects(self) -> list[str]:
        return [draft.object for draft in self.drafts]


class Around:
    """What a Recording has around it, as far as it is used here."""

    def __init__(self) -> None:
        self.store = Store()
        self.lost: list[tuple[int, int]] = []
        self.asked: list[str] = []
        context: Any = SimpleNamespace(
            registry=SimpleNamespace(by_cgroup=lambda _id: None, get=self._get, live=lambda: ()),
            tables=SimpleNamespace(
                add_lost=lambda cgroup, count: self.lost.append((cgroup, count)),
                lost=lambda _cgroup: 0,
            ),
            sessions=SimpleNamespace(
                holds=SimpleNamespace(
                    hold_for_audit=self._noted("hold"), release_from_audit=self._noted("release")
                )
            ),
        )
        store: Any = self.store
        self.recording = Recording(context, store)

    def _get(self, identity: str) -> Any:
        raise LookupError(identity)

    def _noted(self, name: str) -> Callable[[], Coroutine[Any, Any, None]]:
        async def act() -> None:
            self.asked.append(name)

        return act

    def record(self, name: str) -> None:
        self.recording.daemon_record(None, Verb.DAEMON_START, name, {})

    async def retry(self) -> None:
        self.recording._retry_at = 0.0
        self.recording.flush()
        await asyncio.sleep(0)


@pytest.fixture
def around() -> Around:
    return Around()


def test_records_are_written_at_once(around: Around) -> None:
    async def scenario() -> None:
        around.record("one")
        assert around.store.objects == ["one"]
        assert around.recording.totals == {("daemon.start", "allow"): 1}

    asyncio.run(scenario())


def test_what_waits_is_written_in_order_with_the_gap_behind_it(around: Around) -> None:
    async def scenario() -> None:
        around.store.full = True
        around.record("one")
        around.record("two")
        await asyncio.sleep(0)
        assert around.recording.problem == "cannot write: disk is full"
        assert (around.recording.waiting, around.asked) == (2, ["hold"])
        await around.retry()
        assert around.asked == ["hold"]
        around.store.full = False
        await around.retry()
        assert around.store.objects == ["one", "two", "audit log"]
        assert around.store.drafts[-1].verb is Verb.DAEMON_GAP
        assert around.store.drafts[-1].details["lost"] == 0
        assert around.recording.problem == ""
        assert around.asked == ["hold", "release"]

    asyncio.run(scenario())


def test_the_store_is_tried_once_a_second(around: Around) -> None:
    async def scenario() -> None:
        around.store.full = True
        around.record("one")
        around.store.full = False
        around.recording.flush()
        assert around.store.objects == []
        await around.retry()
        assert around.store.objects == ["one", "audit log"]

    asyncio.run(scenario())


def test_memory_is_bounded_and_what_does_not_fit_is_counted(
    around: Around, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)

    async def scenario() -> None:
        around.store.full = True
        for number in range(5):
            around.record(str(number))
        assert around.recording.waiting == 3
        assert around.lost == [(0, 1), (0, 1)]
        around.store.full = False
        await around.retry()
        assert around.store.objects == ["0", "1", "2", "audit log"]
        assert around.store.drafts[-1].details["lost"] == 2

    asyncio.run(scenario())


def test_a_draft_that_can_never_be_written_holds_up_no_other(
    around: Around, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario() -> None:
        around.store.full = True
        for name in ("one", "poison", "two"):
            around.record(name)
        around.store.full = False
        await around.retry()
        assert around.store.objects == ["one", "two", "audit log"]
        assert around.recording.undecoded == 1

    asyncio.run(scenario())
    assert "not JSON" in capsys.readouterr().err


def test_followers_are_woken_by_what_is_written(around: Around) -> None:
    async def scenario() -> None:
        waiting = asyncio.ensure_future(around.recording.appended())
        await asyncio.sleep(0)
        assert not waiting.done()
        around.record("one")
        await asyncio.wait_for(waiting, 5)

    asyncio.run(scenario())


def test_verdicts_of_the_daemons_own(around: Around) -> None:
    async def scenario() -> None:
        around.recording.daemon_record(
            None, Verb.SESSION_LAUNCH, "base", {"uid": 7}, verdict=Verdict.DENY, reason="no", pid=5
        )
        (draft,) = around.store.drafts
        assert (draft.verdict, draft.reason, draft.pid) == (Verdict.DENY, "no", 5)
        assert (draft.session, draft.chain) == ("", ())

    asyncio.run(scenario())
