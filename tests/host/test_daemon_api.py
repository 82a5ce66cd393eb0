# SPDX-License-Identifier: Apache-2.0
"""The API of a real daemon: who sees what, and what it says to requests that make no sense."""

from __future__ import annotations

import grp
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from monitor.daemon.api.server import FOLLOWERS
from tests.support.daemon import Daemon, User, acting_as, wait_until


@pytest.fixture(scope="module")
def other(make_user: Callable[[], User]) -> User:
    """Another user with sessions of their own."""
    return make_user()


@pytest.fixture(scope="module")
def daemon(user: User, other: User) -> Iterator[Daemon]:
    """A daemon whose administrators' group is that of a third user."""
    made = Daemon(user)
    entry = {"profiles": ["*"], "agents": ["*"]}
    made.write(
        made.delegations,
        {"delegations": [{"who": f"user:{each.name}"} | entry for each in (user, other)]},
    )
    try:
        made.start()
        yield made
    finally:
        made.clean()


@pytest.fixture
def running(daemon: Daemon, user: User, other: User) -> Iterator[dict[str, dict[str, Any]]]:
    """A session of each of the two users, by the user's name."""
    processes = {
        each.name: daemon.spawn("base", ["/bin/sleep", "600"], user=each) for each in (user, other)
    }
    yield {name: daemon.launched(process) for name, process in processes.items()}
    for process in processes.values():
        process.kill()
        process.communicate(timeout=30)
    daemon.settled()


def test_root_sees_every_session_others_their_own(
    daemon: Daemon, user: User, other: User, stranger: User, running: dict[str, Any]
) -> None:
    ids = {name: session["id"] for name, session in running.items()}
    assert {each["id"] for each in daemon.sessions()} == set(ids.values())
    assert [each["id"] for each in daemon.sessions(user=user)] == [ids[user.name]]
    assert [each["id"] for each in daemon.sessions(user=other)] == [ids[other.name]]
    assert daemon.sessions(user=stranger) == []


def test_records_are_seen_by_those_who_see_the_session(
    daemon: Daemon, user: User, other: User, stranger: User, running: dict[str, Any]
) -> None:
    own, strange = running[user.name]["id"], running[other.name]["id"]
    seen = daemon.records(user=user, limit=10_000)
    assert {each["chain"][0] for each in seen} == {f"user:{user.name}"}
    assert own in {each["session"] for each in seen}
    everything = {each["session"] for each in daemon.records(limit=10_000)}
    assert {own, strange, ""} <= everything
    assert daemon.records(user=stranger) == []
    assert daemon.records(user=user, session=own)
    record = daemon.records(user=other)[0]["id"]
    assert daemon.request("GET", f"/v1/records/{record}", user=other)[0] == 200
    assert daemon.request("GET", f"/v1/records/{record}")[0] == 200
    for who in (user, stranger):
        assert daemon.request("GET", f"/v1/records/{record}", user=who)[0] == 404
    # The daemon's own records are the administrators'.
    assert daemon.request("GET", "/v1/records/1", user=user)[0] == 404


@pytest.mark.parametrize("verb", ["freeze", "thaw", "kill"])
def test_another_users_session_does_not_exist(
    daemon: Daemon, user: User, other: User, running: dict[str, Any], verb: str
) -> None:
    strange = running[other.name]["id"]
    path = f"/v1/sessions/{strange}"
    for method, target in (("GET", path), ("POST", f"{path}/{verb}")):
        status, body = daemon.request(method, target, user=user)
        assert (status, body["error"]) == (404, f"no session {strange}")
    assert daemon.request("GET", f"/v1/records?session={strange}", user=user)[0] == 404
    assert daemon.sessions(user=other)[0]["state"] == "running"
    # The same by its owner, who may.
    expected = 409 if verb == "thaw" else 200
    assert daemon.request("POST", f"{path}/{verb}", user=other)[0] == expected


def test_members_of_the_group_administer(
    make_daemon: Callable[..., Daemon], user: User, stranger: User
) -> None:
    daemon = make_daemon(admin_group=grp.getgrgid(stranger.gid).gr_name)
    daemon.start()
    process = daemon.spawn("base", ["/bin/sleep", "600"])
    session = daemon.launched(process)["id"]
    assert [each["id"] for each in daemon.sessions(user=stranger)] == [session]
    assert daemon.request("GET", "/v1/log/verify", user=stranger)[1]["ok"]
    assert daemon.request("POST", f"/v1/sessions/{session}/kill", user=stranger)[0] == 200
    process.communicate(timeout=30)
    assert daemon.request("GET", "/v1/metrics", user=user)[0] == 403


def test_a_session_is_found_by_a_part_of_its_id(
    daemon: Daemon, user: User, running: dict[str, Any]
) -> None:
    session = running[user.name]["id"]
    for reference in (session, session[-8:], session[:-6]):
        status, body = daemon.request("GET", f"/v1/sessions/{reference}")
        assert (status, body["id"]) == (200, session)
    assert body["plan"]["policies"][0]["profile"] == "base"
    assert daemon.request("GET", f"/v1/sessions/{session[-3:]}")[0] == 404
    # Both begin with the same milliseconds.
    status, body = daemon.request("GET", f"/v1/sessions/{session[:4]}")
    assert status == 404
    assert "give more of the id" in body["error"]
    assert daemon.request("GET", f"/v1/sessions/{session[:4]}", user=user)[0] == 200


class Following:
    """A client that follows the records."""

    def __init__(self, daemon: Daemon, query: str, user: User | None = None) -> None:
        self.connection = socket.socket(socket.AF_UNIX)
        with acting_as(user):
            self.connection.connect(str(daemon.socket))
        request = f"GET /v1/records?follow=1{query} HTTP/1.0\r\nHost: ri\r\n\r\n"
        self.connection.sendall(request.encode())
        self.connection.settimeout(15)
        self.file = self.connection.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        while self.file.readline().strip():
            pass

    def next(self) -> dict[str, Any]:
        return dict(json.loads(self.file.readline()))

    def close(self) -> None:
        self.file.close()
        self.connection.close()


def test_records_are_followed_by_those_who_may_see_them(
    daemon: Daemon, user: User, other: User, stranger: User
) -> None:
    own = Following(daemon, "&verb=session.launch", user)
    admin = Following(daemon, "&verb=session.launch")
    nobody = Following(daemon, "", stranger)
    for who in (other, user):
        assert daemon.exec("base", ["/bin/true"], user=who).returncode == 0
    assert own.next()["chain"][0] == f"user:{user.name}"
    assert [admin.next()["chain"][0] for _ in range(2)] == [
        f"user:{other.name}",
        f"user:{user.name}",
    ]
    nobody.connection.settimeout(0.3)
    with pytest.raises(TimeoutError):
        nobody.next()
    for each in (own, admin, nobody):
        each.close()


def test_followers_that_went_away_make_room(daemon: Daemon, stranger: User) -> None:
    """Nothing is ever written to one who sees nothing, so only their going tells."""
    for _ in range(3):
        many = [Following(daemon, "", stranger) for _ in range(FOLLOWERS)]
        assert {each.status for each in many} == {200}
        over = Following(daemon, "", stranger)
        assert over.status == 429
        for each in (*many, over):
            each.close()

        def room() -> bool:
            probe = Following(daemon, "", stranger)
            probe.close()
            return probe.status == 200

        wait_until(room)
        time.sleep(0.2)


def test_following_goes_on_after_a_known_record(daemon: Daemon) -> None:
    assert daemon.exec("base", ["/bin/true"]).returncode == 0
    daemon.settled()
    stored = daemon.records(limit=10_000)
    follower = Following(daemon, f"&after={stored[-6]['id']}")
    assert [follower.next() for _ in range(5)] == stored[-5:]
    follower.close()


def test_filters(daemon: Daemon, user: User) -> None:
    before = time.time()
    command = ["/bin/cat", "/etc/shadow"]
    assert daemon.exec("base", command, "--agent", "demo/reader").returncode == 1
    daemon.settled()
    found = daemon.records(since=before, verdict="deny")
    assert [(each["verb"], each["object"]) for each in found] == [("file.open", "/etc/shadow")]
    assert daemon.records(since=before, verb="file.open", agent="*/demo/rea*", verdict="deny") == (
        found
    )
    assert daemon.records(since=before, agent="*/nobody") == []
    newest = daemon.records(newest=1, limit=3)
    assert len(newest) == 3
    assert newest == daemon.records(limit=10_000)[-3:]
    assert daemon.records(after=newest[0]["id"]) == newest[1:]
    status, body = daemon.request("GET", f"/v1/records/{found[0]['id']}", user=user)
    assert status == 200
    assert body["record"]["object"] == "/etc/shadow"
    assert body["record"]["hash"]
    assert "files.read" in body["explanation"]["remedy"]
    assert "/etc/shadow" in body["text"]


def test_the_log_is_verified(daemon: Daemon, user: User) -> None:
    status, body = daemon.request("GET", "/v1/log/verify")
    assert (status, body["ok"], body["record"]) == (200, True, None)
    assert body["records"] > 0
    assert daemon.request("GET", "/v1/log/verify", user=user)[0] == 403


def test_metrics_are_prometheus_text(daemon: Daemon) -> None:
    status, body = daemon.request("GET", "/v1/metrics")
    assert status == 200
    assert "# TYPE ri_sessions gauge" in body
    assert 'ri_actions_by_verb_total{verb="session.launch",verdict="allow"}' in body


def test_the_doctor_names_every_control(daemon: Daemon, stranger: User) -> None:
    report = daemon.doctor()
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    controls = {each["name"]: each for each in report["controls"]}
    assert {"system calls", "files", "view", "network", "unix sockets", "audit log"} <= set(
        controls
    )
    for each in report["controls"]:
        assert each["mechanism"]
        # What is active says what it does; what is not, what to do.
        assert each["detail"] if each["active"] else each["missing"]
        # Since when, as the kernel's own clock has it: not before it was booted.
        since = each["active_since"]
        assert booted - 2 <= since <= time.time() if each["active"] else since is None, each
    assert report["problems"] == []
    assert daemon.request("GET", "/v1/doctor", user=stranger)[0] == 200


BAD = [
    pytest.param("GET", "/", 404, id="no such path"),
    pytest.param("GET", "/v1/sessions/x/y/z", 404, id="path too long"),
    pytest.param("POST", "/v1/status", 405, id="wrong method"),
    pytest.param("DELETE", "/v1/sessions/abcd", 405, id="no deleting"),
    pytest.param("GET", "/v1/sessions/abcd/kill", 405, id="kill by GET"),
    pytest.param("GET", "/v1/sessions?al=1", 400, id="unknown parameter"),
    pytest.param("GET", "/v1/sessions?all=yes", 400, id="no flag"),
    pytest.param("GET", "/v1/sessions?all=1&all=0", 400, id="repeated"),
    pytest.param("GET", "/v1/sessions/%00", 404, id="NUL"),
    pytest.param("GET", "/v1/sessions/..%2f..%2fetc", 404, id="dots"),
    pytest.param("GET", "/v1/sessions/" + "a" * 5000, 404, id="long reference"),
    pytest.param("GET", "/v1/sessions/%25", 404, id="a pattern's sign"),
    pytest.param("GET", "/v1/records?limit=0", 400, id="limit 0"),
    pytest.param("GET", "/v1/records?limit=-1", 400, id="limit -1"),
    pytest.param("GET", "/v1/records?limit=10001", 400, id="limit too large"),
    pytest.param("GET", "/v1/records?limit=1e3", 400, id="limit as a float"),
    pytest.param("GET", "/v1/records?limit=%D9%A3", 400, id="limit in other digits"),
    pytest.param("GET", "/v1/records?after=99999999999999999999", 400, id="after too large"),
    pytest.param("GET", "/v1/records?since=nan", 400, id="since nan"),
    pytest.param("GET", "/v1/records?since=yesterday", 400, id="since in words"),
    pytest.param("GET", "/v1/records?verdict=maybe", 400, id="no verdict"),
    pytest.param("GET", "/v1/records?verb=' OR 1=1 --", 400, id="SQL"),
    pytest.param("GET", "/v1/records?session=' OR 1=1 --", 404, id="SQL in a reference"),
    pytest.param("GET", "/v1/records/0", 404, id="record 0"),
    pytest.param("GET", "/v1/records/999999999999999999", 404, id="record that is not"),
    pytest.param("GET", "/v1/records/-1", 404, id="record -1"),
    pytest.param("GET", "/v1/records/9999999999999999999999", 404, id="record too large"),
]


@pytest.mark.parametrize(("method", "path", "expected"), BAD)
def test_requests_that_make_no_sense(daemon: Daemon, method: str, path: str, expected: int) -> None:
    status, body = daemon.request(method, path.replace(" ", "%20"))
    assert status == expected, body
    assert set(body) <= {"error", "hint"}
    assert "\n" not in body["error"]


BODIES = [
    pytest.param(b"{", 400, id="cut short"),
    pytest.param(b"[]", 400, id="a list"),
    pytest.param(b'"why"', 400, id="a string"),
    pytest.param(b'{"why": 1}', 400, id="a number"),
    pytest.param(b'{"why": null}', 400, id="null"),
    pytest.param(b'{"why": "x", "force": true}', 400, id="unknown field"),
    pytest.param(b"\xff\xfe\x00", 400, id="no text"),
    pytest.param(b'{"why": "' + b"x" * 2000 + b'"}', 400, id="long reason"),
    pytest.param(b"[" * 15_000, 400, id="deep"),
    pytest.param(b'{"why": "' + b"x" * 100_000 + b'"}', 413, id="huge"),
    pytest.param(b"", 404, id="empty is fine, the session is not"),
    pytest.param(b'{"why": "\\ud800"}', 404, id="a lone surrogate is text"),
]


@pytest.mark.parametrize(("body", "expected"), BODIES)
def test_bodies_that_make_no_sense(daemon: Daemon, body: bytes, expected: int) -> None:
    status, answer = raw(daemon, body)
    assert status == expected, answer
    assert set(answer) <= {"error", "hint"}


def raw(daemon: Daemon, body: bytes) -> tuple[int, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(15)
        connection.connect(str(daemon.socket))
        head = f"POST /v1/sessions/abcdef/kill HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    head_bytes, _, rest = answer.partition(b"\r\n\r\n")
    return int(head_bytes.split()[1]), json.loads(rest)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\0" * 100, id="NULs"),
        pytest.param(b"GET\r\n\r\n", id="no request line"),
        pytest.param(b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", id="endless path"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", id="endless header"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
    ],
)
def test_what_is_no_http_does_no_harm(daemon: Daemon, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(15)
        connection.connect(str(daemon.socket))
        connection.sendall(data)
        assert connection.recv(65536).split()[1] in (b"400", b"414", b"431")
    assert daemon.status()["sessions"] == 0


def test_connections_that_say_nothing_hold_up_nobody(daemon: Daemon) -> None:
    silent = []
    for _ in range(200):
        silent.append(socket.socket(socket.AF_UNIX))
        silent[-1].connect(str(daemon.socket))
        silent[-1].send(b"GET /v1/status HT")
    began = time.monotonic()
    daemon.status()
    assert time.monotonic() - began < 5
    for connection in silent:
        connection.close()


def test_a_session_reference_is_no_pattern(daemon: Daemon) -> None:
    for reference in ("%25%25%25%25", "____", "****"):
        assert daemon.request("GET", f"/v1/sessions/{reference}")[0] == 404


def test_a_connection_of_a_process_that_is_gone_is_refused(daemon: Daemon) -> None:
    """Its number may be anybody's by now."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(daemon.socket))
            socket.send_fds(theirs, [b"x"], [connection.fileno()])
        os._exit(0)
    _data, fds, _flags, _address = socket.recv_fds(ours, 1, 1)
    os.waitpid(child, 0)
    with socket.socket(fileno=fds[0]) as connection:
        connection.settimeout(15)
        connection.sendall(b"GET /v1/sessions HTTP/1.1\r\nHost: ri\r\n\r\n")
        assert connection.recv(65536).split()[1] == b"403"
    ours.close()
    theirs.close()


def test_names_that_are_no_utf8_pass_through(daemon: Daemon, user: User) -> None:
    name = os.fsdecode(b"/tmp/ri-\xff\xfe-name")
    result = daemon.exec("base", ["/bin/cat", name])
    assert result.returncode == 1
    Path(os.fsdecode(os.fsencode(user.home) + b"/\xff")).touch()
    daemon.exec("base", ["/bin/cat", os.fsdecode(os.fsencode(user.home) + b"/\xff")])
    daemon.settled()
    denied = daemon.records(verdict="deny")
    assert os.fsdecode(os.fsencode(user.home) + b"/\xff") in [each["object"] for each in denied]


def test_the_peak_of_memory_is_small(daemon: Daemon) -> None:
    def resident() -> int:
        text = Path(f"/proc/{daemon.worker_pid()}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0])

    wait_until(lambda: resident() > 0)
    assert resident() < 80 * 1024


def test_the_service_is_asked_by_curl(daemon: Daemon) -> None:
    command = ["curl", "--silent", "--max-time", "10", "--unix-socket", str(daemon.socket)]
    result = subprocess.run(
        [*command, "http://ri/v1/status"], capture_output=True, text=True, timeout=30
    )
    assert json.loads(result.stdout)["audit"]["state"] == "ok"
