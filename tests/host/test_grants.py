# SPDX-License-Identifier: Apache-2.0
"""Grants on a real host: who may make them, what a session under one may do, and each refusal."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from biscuit_auth import Algorithm, Biscuit, BlockBuilder, KeyPair, PublicKey

from monitor.identity import grant as tokens
from monitor.identity.chain import Principal
from monitor.identity.grant_block import Origin, Step
from tests.support.daemon import Daemon, User, delegations_for, wait_until

CODER, TESTER = "spiffe://test.example/agent/coder", "spiffe://test.example/agent/tester"


@pytest.fixture(scope="module")
def other(make_user: Callable[[], User]) -> User:
    """A user who may start sessions themselves, and make no grants."""
    return make_user()


@pytest.fixture(scope="module")
def daemon(user: User, other: User) -> Iterator[Daemon]:
    made = Daemon(user, {"host": "builder", "host_groups": ["ci", "lab"]})
    rights = delegations_for(user)
    entry = rights["delegations"][0]
    entry["delegate"] = {"max_ttl": "2h", "max_depth": 2}
    entry["run_as"] = [other.name]
    rights["delegations"] += delegations_for(other)["delegations"]
    made.write(made.delegations, rights)
    home = user.home
    for name in ("both", "outer"):
        (home / name).write_text(name)
        os.chown(home / name, user.uid, user.gid)
    made.profile("outer", f"include: [base]\nfiles: {{read: [{home}/both, {home}/outer]}}\n")
    made.profile("inner", f"include: [base]\nfiles: {{read: [{home}/both, {home}/inner]}}\n")
    (home / "inner").write_text("inner")
    try:
        made.start()
        yield made
    finally:
        made.clean()


def delegate(daemon: Daemon, user: User, *options: str, source: Path | None = None) -> Path:
    """A grant that `user` makes, or narrows, as a file in their home."""
    file = user.home / f"{time.monotonic_ns()}.grant"
    start = (
        ["--from", str(source), "--agent", "tester", "--config", str(daemon.config)]
        if source is not None
        else ["--agent", "coder", "--profile", "outer"]
    )
    done = daemon.rictl_as(user, "delegate", *start, *options, "--out", str(file))
    assert done.returncode == 0, done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    return file


def run(
    daemon: Daemon, file: Path, command: str = "true", *options: str, user: User | None = None
) -> subprocess.CompletedProcess[str]:
    return daemon.exec(None, ["sh", "-c", command], "--grant", str(file), *options, user=user)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Why the launch was refused: one line."""
    assert done.returncode == 125, done
    reason, *hint = done.stderr.splitlines()
    assert all(line.startswith("hint: ") for line in hint)
    return reason.removeprefix("ri-exec: ")


def test_a_session_runs_under_a_grant(daemon: Daemon, user: User) -> None:
    file = delegate(daemon, user, "--ttl", "1h", "--purpose", "fix it", "--uses", "3")
    done = run(daemon, file, "cat outer; cat inner")
    assert (done.returncode, done.stdout) == (1, "outer")
    session = daemon.sessions(everything=True)[-1]
    assert session["agent"] == CODER
    assert session["chain"] == [f"user:{user.name}", CODER]
    assert (session["profile"], session["purpose"]) == ("outer", "fix it")
    assert 3500 < session["expires"] - time.time() <= 3600
    assert all(each["chain"] == session["chain"] for each in daemon.records(session=session["id"]))
    (launch,) = daemon.records(session=session["id"], verb="session.launch")
    ids = tokens.read(file.read_text()).revocation_ids
    assert daemon.details(launch["id"])["grant"] == list(ids)
    (made,) = daemon.records(verb="grant.make")[-1:]
    assert made["object"] == CODER
    assert daemon.details(made["id"])["links"][0]["revocation_id"] == ids[0]


def test_a_narrowed_grant_narrows(daemon: Daemon, user: User) -> None:
    parent = delegate(daemon, user, "--depth", "1")
    child = delegate(daemon, user, "--profile", "inner", "--ttl", "10m", source=parent)
    programs = {name: f"cat {name}" for name in ("both", "outer", "inner")}
    with_parent = {name: run(daemon, parent, each).stdout for name, each in programs.items()}
    with_child = {name: run(daemon, child, each).stdout for name, each in programs.items()}
    assert with_parent == {"both": "both", "outer": "outer", "inner": ""}
    assert with_child == {"both": "both", "outer": "", "inner": ""}
    # What no link but the last lists, the last alone would have allowed.
    assert daemon.exec("inner", ["cat", "inner"]).stdout == "inner"
    session = daemon.sessions(everything=True)[-2]
    assert session["chain"] == [f"user:{user.name}", CODER, TESTER]
    assert session["expires"] - time.time() <= 600
    denied = daemon.records(session=session["id"], verdict="deny")
    assert denied
    for record in denied:
        assert record["chain"] == session["chain"]
    text = daemon.rictl("explain", str(denied[-1]["id"])).stdout
    assert TESTER in text
    assert CODER in text


def test_the_right_to_delegate_is_needed(daemon: Daemon, user: User, other: User) -> None:
    def reason(who: User, *options: str) -> str:
        done = daemon.rictl_as(who, "delegate", "--agent", "coder", *options)
        assert (done.returncode, done.stdout) == (1, "")
        return done.stderr

    assert "may not make grants: delegate is missing" in reason(other, "--profile", "outer")
    for options, words in (
        (("--profile", "outer", "--ttl", "3h"), "max_ttl is 7200 s"),
        (("--profile", "outer", "--depth", "3"), "max_depth is 2"),
        (("--profile", "outer", "--bearer", "root"), "for root"),
        (("--profile", "outer", "--bearer", "nobody-here"), "no user 'nobody-here'"),
        (("--profile", "outer", "--host-group", "web"), "group web"),
        (("--profile", "missing"), "missing"),
        (("--profile", "outer", "--agent", "a//b"), "not an agent's name"),
    ):
        assert words in reason(user, *options)


def test_without_the_right_to_start_sessions_a_grant_gives_it(
    daemon: Daemon, user: User, other: User, stranger: User
) -> None:
    file = delegate(daemon, user, "--bearer", other.name)
    theirs = other.home / "theirs.grant"
    theirs.write_text(file.read_text())
    theirs.chmod(0o644)
    done = run(daemon, theirs, "id -un", user=other)
    assert (done.returncode, done.stdout) == (0, f"{other.name}\n")
    session = daemon.sessions(everything=True)[-1]
    assert session["user"] == other.name
    assert session["chain"][0] == f"user:{user.name}"
    # It is for them alone: the one who made it has rights of their own.
    for who in (user, stranger):
        assert "the grant is for user" in refused(run(daemon, theirs, user=who))


def test_the_grant_of_another_user_gives_nothing(
    daemon: Daemon, user: User, stranger: User
) -> None:
    file = delegate(daemon, user)
    stolen = stranger.home / "stolen.grant"
    stolen.write_text(file.read_text())
    stolen.chmod(0o644)
    words = f"for user {user.name} (uid {user.uid}), not for {stranger.name}"
    assert words in refused(run(daemon, stolen, user=stranger))
    assert run(daemon, stolen).returncode == 0


def test_a_grant_expires_and_its_session_with_it(daemon: Daemon, user: User) -> None:
    file = delegate(daemon, user, "--ttl", "2s")
    expires = tokens.read(file.read_text()).expires
    done = run(daemon, file, "sleep 30")
    assert done.returncode != 0
    assert time.time() < expires + 10
    assert "expired" in done.stderr
    assert "the grant expired at" in refused(run(daemon, file))


def test_uses_are_counted_over_restarts_and_children(daemon: Daemon, user: User) -> None:
    parent = delegate(daemon, user, "--uses", "2", "--depth", "1")
    child = delegate(daemon, user, "--uses", "5", source=parent)
    assert run(daemon, child).returncode == 0
    daemon.settled()
    daemon.restart_worker()
    shown = daemon.rictl_as(user, "grant", "show", str(child)).stdout
    assert "2 (1 started)" in shown
    assert "5 (1 started)" in shown
    assert run(daemon, parent).returncode == 0
    for file in (child, parent):
        assert "used up: sessions may be started under it 2 times" in refused(run(daemon, file))
    shown = daemon.rictl_as(user, "grant", "show", str(child), "--json").stdout
    assert json.loads(shown)["holds"] is False


@pytest.mark.once
def test_of_many_at_once_no_more_than_its_uses_start(daemon: Daemon, user: User) -> None:
    file = delegate(daemon, user, "--uses", "2")
    command = ["sh", "-c", "true"]
    started = [daemon.spawn(None, command, "--grant", str(file)) for _ in range(6)]
    statuses = []
    for process in started:
        process.communicate(timeout=60)
        statuses.append(process.returncode)
    assert sorted(statuses) == [0, 0, 125, 125, 125, 125]


def test_a_refused_launch_uses_nothing(daemon: Daemon, user: User) -> None:
    file = delegate(daemon, user, "--uses", "1")
    assert "without enforcement" in refused(run(daemon, file, "true", "--observe"))
    assert "is for the agent coder" in refused(run(daemon, file, "true", "--agent", "other"))
    assert run(daemon, file, "true", "--agent", "coder").returncode == 0
    assert "used up: sessions may be started under it once" in refused(run(daemon, file))


def changed(file: Path, text: str) -> Path:
    made = file.with_suffix(".changed")
    made.write_text(text)
    made.chmod(0o644)
    return made


def test_what_was_tampered_with_is_refused(daemon: Daemon, user: User) -> None:
    file = delegate(daemon, user, "--depth", "1")
    text = file.read_text().strip()
    for place in (len(text) // 3, len(text) // 2, len(text) - 30):
        other = "A" if text[place] != "A" else "B"
        reason = refused(run(daemon, changed(file, text[:place] + other + text[place + 1 :])))
        assert "is not what was signed" in reason or "does not trust" in reason
    assert "cut off" in refused(run(daemon, changed(file, text[:-40])))
    assert "this is no grant" in refused(run(daemon, changed(file, "name: outer\n")))
    assert "larger than" in refused(run(daemon, changed(file, "ri1." + "a" * 20000)))
    assert "NUL" in refused(run(daemon, changed(file, "ri1.\0")))
    assert run(daemon, changed(file, text)).returncode == 0
    (record,) = daemon.records(verb="session.launch", verdict="deny")[-1:]
    assert record["reason"]


def test_one_passed_on_by_other_software_too_often_is_refused(daemon: Daemon, user: User) -> None:
    file = delegate(daemon, user)
    _, key, token = file.read_text().strip().split(".")
    root = PublicKey.from_bytes(bytes.fromhex(key), Algorithm.Ed25519)  # type: ignore[attr-defined, call-arg]
    longer = Biscuit.from_base64(token, root).append(BlockBuilder(f'agent("{TESTER}")'))
    reason = refused(run(daemon, changed(file, f"ri1.{key}.{longer.to_base64()}")))
    assert reason == "the grant was passed on more often (1) than one of its links allows (0)"

    def recorded() -> bool:
        # One a second is recorded of each user, with the number of those before.
        refused(run(daemon, file.with_suffix(".changed")))
        (last,) = daemon.records(verb="session.launch", verdict="deny")[-1:]
        return bool(last["reason"] == reason and last["object"] == "outer")

    wait_until(recorded)


def signed(daemon: Daemon, user: User, private: str, **more: Any) -> str:
    """A grant that somebody with a key of their own makes."""
    me, now = Principal(user.name, user.uid), int(time.time())
    digest = tokens.read(delegate(daemon, user).read_text()).steps[0].digest
    origin: dict[str, Any] = {
        "id": "0" * 32,
        "principal": me,
        "bearer": me,
        "issued": now,
        "hosts": ("builder",),
        "host_groups": (),
    }
    step: dict[str, Any] = {
        "agent": CODER,
        "profile": "outer",
        "digest": digest,
        "expires": now + 60,
        "depth": 0,
    }
    for name, value in more.items():
        (origin if name in origin else step)[name] = value
    return tokens.sign(Origin(**origin), Step(**step), private)


def test_keys_of_other_hosts(daemon: Daemon, user: User, stranger: User) -> None:
    pair = KeyPair()
    private = bytes(pair.private_key.to_bytes()).hex()
    file = user.home / "foreign.grant"

    def given(**more: Any) -> subprocess.CompletedProcess[str]:
        return run(daemon, changed(file, signed(daemon, user, private, **more)))

    assert "a key that this host does not trust" in refused(given())
    trusted = daemon.folder / "keys" / "trusted"
    trusted.mkdir(exist_ok=True)
    key = trusted / "laptop.pub"
    key.write_text(f"{pair.public_key}\n")
    try:
        assert given().returncode == 0
        assert given(hosts=(), host_groups=("lab",)).returncode == 0
        assert "for other, group web, and this host is builder" in refused(
            given(hosts=("other",), host_groups=("web",))
        )
        assert "holds from" in refused(given(issued=int(time.time()) + 1000))
        unknown = Principal("nobody-here", 4242)
        assert "whom this host does not know" in refused(given(principal=unknown))
        # Another host's user of this number.
        assert "whom this host does not know" in refused(
            given(principal=Principal(stranger.name, user.uid))
        )
        assert "not the one that was delegated" in refused(given(digest="0" * 32))
        assert "no profile" in refused(given(profile="missing"))
        key.chmod(0o666)
        assert "can be written by others" in refused(given())
        key.chmod(0o644)
        key.write_text("nothing")
        assert "holds no public key" in refused(given())
        assert any("holds no public key" in each for each in daemon.doctor()["problems"])
    finally:
        key.unlink()
    assert "a key that this host does not trust" in refused(given())


def test_the_private_key_is_for_root_alone(daemon: Daemon, user: User) -> None:
    delegate(daemon, user)
    file = daemon.folder / "keys" / "host.key"
    assert (file.stat().st_mode & 0o777, file.stat().st_uid) == (0o600, 0)
    assert file.parent.stat().st_mode & 0o777 == 0o700
    key = daemon.rictl_as(user, "grant", "key").stdout.strip()
    assert key == f"ed25519/{tokens.read(delegate(daemon, user).read_text()).key}"
    file.chmod(0o644)
    try:
        done = daemon.rictl_as(user, "delegate", "--agent", "coder", "--profile", "outer")
        assert done.returncode == 1
        assert "can be read or written by others than root" in done.stderr
    finally:
        file.chmod(0o600)


def test_a_profile_that_changed_is_not_the_one_delegated(daemon: Daemon, user: User) -> None:
    daemon.profile("short", "include: [base]\n")
    file = delegate(daemon, user, "--profile", "short")
    assert run(daemon, file).returncode == 0
    daemon.profile("short", "include: [base]\nfiles: {read: [/srv]}\n")
    assert "is not the one that was delegated" in refused(run(daemon, file))
    daemon.profile("short", "include: [base]\n")
    assert run(daemon, file).returncode == 0


def test_who_loses_the_right_loses_the_grants(daemon: Daemon, user: User, other: User) -> None:
    file = delegate(daemon, user)
    before = daemon.delegations.read_text()
    daemon.write(daemon.delegations, delegations_for(user))
    try:
        assert "the right behind the grant is gone" in refused(run(daemon, file))
    finally:
        daemon.delegations.write_text(before)
    assert run(daemon, file).returncode == 0


def test_revoking_ends_what_runs_and_what_was_made_of_it(
    daemon: Daemon, user: User, other: User
) -> None:
    parent = delegate(daemon, user, "--depth", "2")
    child = delegate(daemon, user, "--depth", "1", source=parent)
    sibling = delegate(daemon, user, source=parent)
    running = [daemon.spawn(None, ["sleep", "60"], "--grant", str(f)) for f in (child, sibling)]
    sessions = [daemon.launched(process)["id"] for process in running]
    done = daemon.rictl_as(other, "grant", "revoke", str(changed(child, child.read_text())))
    assert done.returncode == 1
    assert "only who delegated" in done.stderr
    done = daemon.rictl_as(user, "grant", "revoke", str(child), "--why", "no more")
    assert "1 session killed" in done.stdout
    assert sessions[0] in done.stdout
    _, errors = running[0].communicate(timeout=30)
    assert "no more" in errors
    assert [each["id"] for each in daemon.sessions()] == [sessions[1]]
    assert "was revoked: its link to" in refused(run(daemon, child))
    (record,) = daemon.records(verb="grant.revoke")[-1:]
    assert record["reason"] == "no more"
    # By the id of the outermost link: everything; and a restart forgets nothing.
    outermost = tokens.read(parent.read_text()).revocation_ids[0]
    done = daemon.rictl_as(other, "grant", "revoke", outermost)
    assert "only administrators may revoke by an id" in done.stderr
    assert daemon.rictl("grant", "revoke", outermost).returncode == 0
    running[1].communicate(timeout=30)
    daemon.settled()
    daemon.restart_worker()
    for file in (parent, child, sibling):
        assert "was revoked" in refused(run(daemon, file))
    shown = daemon.rictl_as(user, "grant", "show", str(sibling))
    assert "holds here no: the grant was revoked" in shown.stdout
    wait_until(lambda: not daemon.sessions())


def test_nothing_in_a_session_makes_or_judges_grants(daemon: Daemon, user: User) -> None:
    file = delegate(daemon, user)
    daemon.profile("talks", f"include: [base]\nnetwork: {{unix: [{daemon.socket}]}}\n")
    request = "POST /v1/grants HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 2\\r\\n\\r\\n{}"
    program = (
        f"import socket; s = socket.socket(socket.AF_UNIX); s.connect('{daemon.socket}');"
        f" s.send(b'{request}'); print(s.recv(100).split()[1])"
    )
    done = daemon.exec("talks", ["/usr/bin/python3", "-c", program])
    assert done.stdout == "b'403'\n", done
    assert run(daemon, file).returncode == 0


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("", {"agent": "a"}, 400),
        ("", {"agent": "a", "profile": "outer", "more": 1}, 400),
        ("", {"agent": "a", "profile": "outer", "ttl": 5}, 400),
        ("", {"agent": "a", "profile": "outer", "ttl": "soon"}, 400),
        ("", {"agent": "a", "profile": "outer", "depth": True}, 400),
        ("", {"agent": "a", "profile": "outer", "depth": -1}, 403),
        ("", {"agent": "a", "profile": "outer", "uses": 0}, 403),
        ("", {"agent": "a", "profile": "outer", "purpose": "x" * 1025}, 400),
        ("", {"agent": "a", "profile": "../outer"}, 403),
        ("", [], 400),
        ("/check", {}, 400),
        ("/check", {"grant": "x"}, 400),
        ("/check", {"grant": "x" * 19000}, 400),
        ("/check", {"grant": "x" * 30000}, 413),
    ],
)
def test_requests_that_cannot_be_met(daemon: Daemon, path: str, body: Any, status: int) -> None:
    answer = daemon.request("POST", f"/v1/grants{path}", body)
    assert answer[0] == status, answer
    assert "\n" not in answer[1]["error"]
