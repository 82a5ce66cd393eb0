# SPDX-License-Identifier: Apache-2.0
"""Asks in a running daemon: who may see and answer them, over restarts, and what is left behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from monitor.daemon.asks.outcomes import GRACE, SECOND, boottime
from monitor.session.asks import Ask, Wanted
from monitor.session.docket import Docket
from tests.support.asking import wanted
from tests.support.daemon import PYTHON, Daemon, User, wait_until

PROFILE = """
include: [base]
files: {{execute: ["/usr/**"]}}
network: {{unix: ["{socket}"]}}
"""
# Asks the API for something from inside of a session.
INSIDE = """
import socket, sys
api = socket.socket(socket.AF_UNIX)
api.connect(sys.argv[1])
api.sendall(b"POST /v1/asks/%s/approve HTTP/1.1\\r\\nHost: ri\\r\\nContent-Length: 0\\r\\n\\r\\n"
            % sys.argv[2].encode())
print(api.recv(65536).decode())
"""


@pytest.fixture(scope="module")
def daemon(user: User, stranger: User) -> Iterator[Daemon]:
    """The stranger's group administers."""
    made = Daemon(user, {"admin_group": stranger.name})
    try:
        made.start()
        made.profile("asked", PROFILE.format(socket=made.socket))
        yield made
    finally:
        made.clean()


@pytest.fixture(scope="module")
def bystander(make_user: Callable[[], User]) -> User:
    return make_user()


class Running:
    """A session that sleeps, and what its user is told."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.process = daemon.spawn("asked", ["/usr/bin/sleep", "600"])
        self.session: dict[str, Any] = daemon.launched(self.process)

    @property
    def id(self) -> str:
        return str(self.session["id"])

    def end(self) -> str:
        """End it; what was said on its standard error."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        return str(self.process.communicate(timeout=30)[1])


@pytest.fixture
def running(daemon: Daemon) -> Iterator[Running]:
    made = Running(daemon)
    yield made
    made.end()


def plant(daemon: Daemon, session: str, *keys: str, **changes: Any) -> list[str]:
    """Asks that a gate raised before the worker was killed; their ids."""
    now = boottime()
    asks = [
        Ask(
            id=secrets.token_hex(4),
            wanted=_wanted(session, key, changes),
            raised=time.time(),
            since=now,
            deadline=now + 300 * SECOND,
            token=secrets.token_urlsafe(24),
        )
        for key in keys
    ]
    with daemon.without_worker():
        docket = Docket(daemon.state / "state.db")
        for ask in asks:
            docket.add(ask)
        assert docket.problem == ""
        docket.close()
    return [ask.id for ask in asks]


def _wanted(session: str, key: str, changes: dict[str, Any]) -> Wanted:
    return wanted(session=session, key=key, **changes)


def waiting(daemon: Daemon, user: User | None = None) -> set[str]:
    status, body = daemon.request("GET", "/v1/asks", user=user)
    assert status == 200, body
    return {ask["id"] for ask in body["asks"]}


def standing(daemon: Daemon) -> list[tuple[str, int | None]]:
    with contextlib.closing(sqlite3.connect(daemon.state / "state.db")) as database:
        return database.execute("SELECT ask, uses FROM standing ORDER BY ask").fetchall()


def test_who_may_answer(
    daemon: Daemon, running: Running, user: User, stranger: User, bystander: User
) -> None:
    mine, root, admin = plant(daemon, running.id, "a", "b", "c")
    for seen_by in (user, stranger, None):
        assert {mine, root, admin} <= waiting(daemon, seen_by)
    assert waiting(daemon, bystander) == set()
    done = daemon.rictl_as(bystander, "approve", mine)
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, f"rictl: no ask '{mine}'")
    assert daemon.rictl_as(bystander, "asks").stderr == "rictl: nothing waits for an answer\n"
    listed = daemon.rictl_as(user, "asks").stdout
    assert f"{mine}  proc.exec  /usr/bin/git" in listed
    assert "    runs     git push origin main\n" in listed

    done = daemon.rictl_as(user, "approve", mine, "--why", "mine to say")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"approved {mine}: proc.exec git push origin main")
    assert daemon.rictl_as(stranger, "deny", admin).returncode == 0
    assert daemon.rictl("approve", root[:6], "--uses", "2").returncode == 0
    assert waiting(daemon) == set()

    (record,) = daemon.records(verb="ask.answer", session=running.id, verdict="deny")
    assert record["reason"] == f"denied by user:{stranger.name}"
    answers = [
        daemon.details(each["id"])
        for each in daemon.records(verb="ask.answer", session=running.id, verdict="allow")
    ]
    assert [(each["ask"], each["by"], each["why"]) for each in answers] == [
        (mine, f"user:{user.name}", "mine to say"),
        (root, "user:root", ""),
    ]
    said = running.end()
    assert f"proc.exec /usr/bin/git is approved by user:{user.name}: mine to say" in said
    assert f"proc.exec /usr/bin/git is denied by user:{stranger.name}" in said


@pytest.mark.once
def test_never_from_inside_a_session(daemon: Daemon, running: Running) -> None:
    """Not even as the principal, with a socket that its profile lets it reach."""
    (ask,) = plant(daemon, running.id, "inside")
    command = ["/usr/bin/python3", "-I", "-c", INSIDE, str(daemon.socket), ask]
    done = daemon.exec("asked", command)
    assert "HTTP/1.1 403" in done.stdout, done
    assert ask in waiting(daemon)
    assert daemon.rictl_as(daemon.user, "deny", ask).returncode == 0


def test_answers_to_what_is_gone(daemon: Daemon, running: Running) -> None:
    (ask,) = plant(daemon, running.id, "gone")
    assert daemon.rictl("deny", ask, "--why", "no").returncode == 0
    done = daemon.rictl("approve", ask)
    assert done.returncode == 1
    assert done.stderr.startswith(f"rictl: ask {ask} was denied by user:root: no (")
    assert daemon.rictl("approve", "00000000").stderr.startswith("rictl: no ask '00000000'")
    daemon.restart_worker()
    assert "was denied by user:root" in daemon.rictl("approve", ask).stderr


@pytest.mark.once
def test_many_answers_at_once_and_one_wins(daemon: Daemon, running: Running) -> None:
    asks = plant(daemon, running.id, *map(str, range(8)))

    def answer(number: int) -> tuple[str, int]:
        verb = ("approve", "deny")[number % 2]
        ask = asks[number // 6]
        return ask, daemon.request("POST", f"/v1/asks/{ask}/{verb}")[0]

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(answer, range(48)))
    for ask in asks:
        assert sorted(status for each, status in found if each == ask) == [200] + [409] * 5
    assert len(daemon.records(verb="ask.answer", session=running.id)) == 8


def test_a_killed_worker_forgets_no_answer(daemon: Daemon, running: Running) -> None:
    uses, whole, once = plant(daemon, running.id, "uses", "whole", "once")
    assert daemon.rictl("approve", uses, "--uses", "5").returncode == 0
    assert daemon.rictl("deny", whole, "--session").returncode == 0
    assert daemon.rictl("approve", once).returncode == 0
    assert dict(standing(daemon)) == {uses: 5, whole: None, once: 1}
    daemon.restart_worker()
    assert dict(standing(daemon)) == {uses: 5, whole: None, once: 1}
    assert waiting(daemon) == set()
    # For an action that no gate raises again an answer is not kept for long.
    seconds = GRACE / SECOND + 5
    wait_until(lambda: dict(standing(daemon)) == {uses: 5, whole: None}, seconds)
    running.end()
    daemon.settled()
    wait_until(lambda: standing(daemon) == [])


def test_kill_9_between_answers(daemon: Daemon, running: Running) -> None:
    """Each answer that was confirmed is known afterwards, and none is taken for another."""
    asks = plant(daemon, running.id, *map(str, range(40)))
    confirmed: dict[str, str] = {}

    def answer(number: int) -> None:
        verb = ("approve", "deny")[number % 2]
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, _body = daemon.request("POST", f"/v1/asks/{asks[number]}/{verb}")
            if status == 200:
                confirmed[asks[number]] = verb

    dead = daemon.worker_pid()
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(answer, number) for number in range(40)]
        while len(confirmed) < 10:
            time.sleep(0.001)
        daemon.kill_worker()
        for each in futures:
            each.result()
    daemon.wait_for_worker(dead)
    left = waiting(daemon)
    assert not left & set(confirmed)
    for ask, verb in confirmed.items():
        _status, body = daemon.request("GET", f"/v1/asks/{ask}")
        assert body["ask"]["answer"]["allow"] is (verb == "approve")


def test_asks_end_with_their_session(daemon: Daemon, running: Running) -> None:
    (ask,) = plant(daemon, running.id, "ends")
    assert daemon.rictl("kill", running.id).returncode == 0
    wait_until(lambda: ask not in waiting(daemon))
    done = daemon.rictl("approve", ask)
    assert "its session has ended" in done.stderr
    _status, body = daemon.request("GET", f"/v1/asks/{ask}", user=daemon.user)
    assert body["ask"]["chain"][0] == f"user:{daemon.user.name}"


def test_authority_that_is_revoked_cannot_be_approved(daemon: Daemon, running: Running) -> None:
    (ask,) = plant(daemon, running.id, "revoked")
    assert daemon.rictl("revoke", running.id, "--then", "deny").returncode == 0
    done = daemon.rictl("approve", ask)
    assert done.returncode == 1
    assert "its session is revoked" in done.stderr


def test_figures(daemon: Daemon, running: Running) -> None:
    (ask,) = plant(daemon, running.id, "figures")
    text = str(daemon.request("GET", "/v1/metrics")[1])
    assert "\nri_asks_waiting 1\n" in text
    assert "\nri_asks_held 0\n" in text
    assert daemon.rictl("deny", ask).returncode == 0
    assert "\nri_asks_waiting 0\n" in str(daemon.request("GET", "/v1/metrics")[1])


def test_watching_over_a_restart(daemon: Daemon, running: Running) -> None:
    (first,) = plant(daemon, running.id, "first")
    process = subprocess.Popen(
        [
            str(PYTHON),
            "-m",
            "monitor.cli.rictl",
            "--socket",
            str(daemon.socket),
            "asks",
            "--watch",
            "--json",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["raised"]["id"] == first
        (second,) = plant(daemon, running.id, "second")
        assert json.loads(process.stdout.readline())["raised"]["id"] == second
        assert daemon.rictl("deny", first, second).returncode == 0
        over = [json.loads(process.stdout.readline())["over"]["id"] for _ in range(2)]
        assert over == [first, second]
    finally:
        process.terminate()
        process.communicate()


def test_a_database_that_is_full_of_asks(daemon: Daemon, running: Running) -> None:
    """Ten thousand that wait do not keep the daemon from coming up, nor from being asked."""
    keys = [f"many{number}" for number in range(10_000)]
    began = time.monotonic()
    asks = plant(daemon, running.id, *keys)
    came_up = time.monotonic() - began
    began = time.monotonic()
    assert len(waiting(daemon, daemon.user)) == 10_000
    listed = time.monotonic() - began
    done = daemon.rictl("deny", asks[5000])
    assert done.returncode == 0, done.stderr
    # A gate raises none of them again.
    wait_until(lambda: not waiting(daemon), GRACE / SECOND + 15)
    assert daemon.status()["audit"]["state"] == "ok"
    assert came_up < 30, came_up
    assert listed < 10, listed


def test_words_that_are_wrong(daemon: Daemon) -> None:
    for arguments in (
        ("approve",),
        ("approve", "x" * 5000),
        ("deny", "../../status"),
        ("approve", "3f9a1c2b", "--for", "soon"),
        ("approve", "3f9a1c2b", "--uses", "99999999999999999999"),
        ("asks", "extra"),
    ):
        done = daemon.rictl(*arguments)
        assert done.returncode in (1, 2)
        assert "Traceback" not in done.stderr
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(daemon.socket))
        raw.sendall(b"POST /v1/asks/%ff/approve HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.")
