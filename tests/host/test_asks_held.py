# SPDX-License-Identifier: Apache-2.0
"""Program starts that are really held: what the program feels while people and programs answer."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, User, wait_until

PROFILE = """
include: [base]
files: {execute: ["/usr/**"]}
exec:
  ask:
    - {path: /usr/bin/id, why: who are you}
"""
FREE = 'include: [base]\nfiles: {execute: ["/usr/**"]}\n'
LATE = 30.0


@pytest.fixture(scope="module")
def daemon(user: User) -> Iterator[Daemon]:
    made = Daemon(user)
    try:
        made.start()
        made.profile("asked", PROFILE)
        made.profile("free", FREE)
        made.profile("hasty", PROFILE + "limits: {ask_timeout: 2s, asks_per_minute: 3}\n")
        made.profile("trusting", PROFILE + "limits: {ask_timeout: 2s}\nask_fallback: allow\n")
        yield made
    finally:
        made.clean()


def shell(daemon: Daemon, script: str, profile: str = "asked") -> subprocess.Popen[str]:
    return daemon.spawn(profile, ["/usr/bin/bash", "-c", script])


def asks(daemon: Daemon) -> list[dict[str, Any]]:
    status, body = daemon.request("GET", "/v1/asks")
    assert status == 200, body
    return list(body["asks"])


def waiting(daemon: Daemon, count: int = 1) -> dict[str, Any]:
    """The one ask that waits, once `count` actions do."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        found[:] = asks(daemon)
        return len(found) == 1 and found[0]["count"] == count

    wait_until(there, LATE)
    return found[0]


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=LATE)
    return process.returncode, output, errors


def answered(daemon: Daemon, session: str) -> list[tuple[str, str]]:
    """(verdict, reason) of the answers in the log."""
    found = daemon.records(verb="ask.answer", session=session)
    return [(each["verdict"], each["reason"]) for each in found]


def test_without_the_rule_nothing_is_asked(daemon: Daemon, user: User) -> None:
    status, output, errors = finished(shell(daemon, "id -u", "free"))
    assert (status, output) == (0, f"{user.uid}\n"), errors


def test_a_start_is_held_until_it_is_approved(daemon: Daemon, user: User) -> None:
    process = shell(daemon, "id -u; echo after")
    ask = waiting(daemon)
    assert (ask["verb"], ask["object"], ask["argv"]) == ("proc.exec", "/usr/bin/id", ["id", "-u"])
    assert (ask["cwd"], ask["why"]) == (str(user.home), "who are you")
    assert ask["profile"] == "asked"
    assert "exec.ask" in ask["rule"]
    time.sleep(0.5)
    assert process.poll() is None
    done = daemon.rictl_as(user, "approve", ask["id"], "--why", "fine")
    assert done.returncode == 0, done.stderr
    status, output, errors = finished(process)
    assert (status, output) == (0, f"{user.uid}\nafter\n"), errors
    assert f"proc.exec /usr/bin/id is held until it is answered (ask {ask['id']})" in errors
    assert f"proc.exec /usr/bin/id is approved by user:{user.name}: fine" in errors
    (raised,) = daemon.records(verb="ask.raise", session=ask["session"])
    assert (raised["verdict"], raised["reason"]) == ("ask", "who are you")
    assert answered(daemon, ask["session"]) == [("allow", f"approved by user:{user.name}: fine")]


def test_a_start_that_is_denied(daemon: Daemon) -> None:
    process = shell(daemon, "id -u; echo $?")
    ask = waiting(daemon)
    assert daemon.rictl("deny", ask["id"], "--why", "not you").returncode == 0
    status, output, errors = finished(process)
    assert (status, output) == (0, "126\n"), errors
    assert "not permitted" in errors
    assert "denied by user:root: not you" in errors
    assert answered(daemon, ask["session"]) == [("deny", "denied by user:root: not you")]
    (record,) = daemon.records(verb="ask.answer", session=ask["session"])
    assert daemon.details(record["id"])["argv"] == ["id", "-u"]
    assert "rictl asks" in daemon.rictl("explain", str(record["id"])).stdout


def test_an_approval_is_for_these_arguments_in_this_session(daemon: Daemon) -> None:
    process = shell(daemon, "id -u; id -u; id -g")
    ask = waiting(daemon)
    assert daemon.rictl("approve", ask["id"], "--session").returncode == 0
    wait_until(lambda: [each["argv"] for each in asks(daemon)] == [["id", "-g"]], LATE)
    other = shell(daemon, "id -u")
    wait_until(lambda: len(asks(daemon)) == 2, LATE)
    for each in asks(daemon):
        assert daemon.rictl("deny", each["id"]).returncode == 0
    assert finished(process)[1].count("\n") == 2
    assert finished(other)[0] == 126


def test_uses_are_counted(daemon: Daemon) -> None:
    process = shell(daemon, "for each in 1 2 3; do id -u; done")
    assert daemon.rictl("approve", waiting(daemon)["id"], "--uses", "2").returncode == 0
    ask = waiting(daemon)
    assert daemon.rictl("deny", ask["id"]).returncode == 0
    assert finished(process)[1].count("\n") == 2
    standing = [verdict for verdict, _reason in answered(daemon, ask["session"])]
    assert standing == ["allow", "allow", "deny"]


def test_many_that_do_the_same_are_one_ask(daemon: Daemon, user: User) -> None:
    process = shell(daemon, "for each in {1..20}; do id -u & done; wait")
    ask = waiting(daemon, 20)
    done = daemon.rictl("approve", ask["id"], "--uses", "15")
    assert "(15 go on)" in done.stdout
    rest = waiting(daemon, 5)
    assert rest["id"] in done.stdout
    assert daemon.rictl("deny", rest["id"]).returncode == 0
    assert finished(process)[1].splitlines() == [str(user.uid)] * 15


def test_nobody_answers(daemon: Daemon) -> None:
    began = time.monotonic()
    process = shell(daemon, "id -u", "hasty")
    waiting(daemon)  # somebody has seen it
    status, output, errors = finished(process)
    assert (status, output) == (126, "")
    assert "nobody answered within 2 s" in errors
    assert 1.9 < time.monotonic() - began < 10


def test_nobody_could_be_asked(daemon: Daemon, user: User) -> None:
    """Where nobody even looked, the profile's fallback decides; here it says yes."""
    status, output, errors = finished(shell(daemon, "id -u", "trusting"))
    assert (status, output) == (0, f"{user.uid}\n"), errors
    assert "approved by the profile's ask_fallback" in errors
    process = shell(daemon, "id -u", "trusting")
    waiting(daemon)
    assert finished(process)[0] == 126


def test_more_than_the_profile_lets_are_refused(daemon: Daemon) -> None:
    process = shell(daemon, "for each in 1 2 3 4 5; do id -u $each & done; wait", "hasty")
    wait_until(lambda: len(asks(daemon)) == 3, LATE)
    for each in asks(daemon):
        daemon.rictl("deny", each["id"])
    finished(process)
    (session,) = {each["session"] for each in daemon.records(verb="ask.raise", newest=1, limit=3)}
    limited = [reason for _verdict, reason in answered(daemon, session) if "more than 3" in reason]
    assert limited[0] == "denied by the daemon: more than 3 asks within a minute"


def test_a_held_program_that_is_killed_takes_its_ask_along(daemon: Daemon) -> None:
    process = shell(daemon, "timeout -s KILL 1 id -u; sleep 60")
    ask = waiting(daemon)
    wait_until(lambda: not asks(daemon), LATE)
    done = daemon.rictl("approve", ask["id"])
    assert done.returncode == 1
    assert "nothing waits for it any more" in done.stderr
    assert daemon.rictl("kill", ask["session"]).returncode == 0
    finished(process)


def test_the_end_of_a_session_ends_what_it_holds(daemon: Daemon) -> None:
    process = shell(daemon, "id -u")
    ask = waiting(daemon)
    assert daemon.rictl("kill", ask["session"]).returncode == 0
    finished(process)
    wait_until(lambda: not asks(daemon), LATE)


def test_a_killed_worker_holds_and_asks_again(daemon: Daemon, user: User) -> None:
    process = shell(daemon, "id -u; id -u")
    ask = waiting(daemon)
    for _ in range(3):
        daemon.restart_worker()
        assert process.poll() is None
        assert waiting(daemon)["id"] == ask["id"]
    assert daemon.rictl("approve", ask["id"]).returncode == 0
    again = waiting(daemon)
    assert again["id"] != ask["id"]
    assert daemon.rictl("approve", again["id"]).returncode == 0
    status, output, errors = finished(process)
    assert (status, output) == (0, f"{user.uid}\n" * 2), errors
    assert len(daemon.records(verb="ask.raise", session=ask["session"])) == 2


@pytest.mark.once
def test_answers_while_the_worker_is_killed_are_never_used_twice(daemon: Daemon) -> None:
    """Whatever the moment: for each run that went through there is an approval."""
    process = shell(daemon, "for each in {1..12}; do id -u; done")
    approved = 0
    for number in range(12):
        found = waiting(daemon)
        if daemon.rictl("approve", found["id"]).returncode == 0:
            approved += 1
        if number % 3 == 0:
            daemon.restart_worker()
        if process.poll() is not None:
            break
    for _ in range(12):
        if process.poll() is None and asks(daemon):
            daemon.rictl("deny", asks(daemon)[0]["id"])
        time.sleep(0.1)
    output = finished(process)[1]
    assert 0 < output.count("\n") <= approved


# -- approvers -------------------------------------------------------------------------------------

APPROVER = """#!/usr/bin/python3
import json, sys, time
ask = json.load(sys.stdin)
match ask["argv"][1]:
    case "-u":
        print(json.dumps({"answer": "approve", "why": "by rule"}))
    case "-g":
        print(json.dumps({"answer": "deny", "why": "by rule"}))
    case "-n":
        sys.exit("broken")
    case _:
        time.sleep(600)
"""


@pytest.fixture
def approved(make_daemon: Callable[..., Daemon], user: User, tmp_path: Path) -> Daemon:
    program = user.home / "approver.py"
    program.write_text(APPROVER)
    program.chmod(0o755)
    os.chown(program, user.uid, user.gid)
    approver = {"run": [str(program)], "user": user.name, "timeout": 2}
    made = make_daemon(approvers=[approver])
    made.profile("asked", PROFILE)
    made.start()
    return made


def test_programs_answer_and_what_they_cannot_people_do(approved: Daemon, user: User) -> None:
    status, output, errors = finished(shell(approved, "id -u; id -g"))
    assert (status, output) == (126, f"{user.uid}\n"), errors
    name = f"approver {user.home}/approver.py"
    assert f"approved by {name}: by rule" in errors
    assert f"denied by {name}: by rule" in errors
    for option, problem in (("-n", "status 1: broken"), ("-G", "no answer within 2 s")):
        process = shell(approved, f"id {option}")
        ask = waiting(approved)
        fails(approved, problem)
        assert approved.rictl("approve", ask["id"]).returncode == 0
        finished(process)
    assert any(name in each for each in approved.doctor()["problems"])


def fails(daemon: Daemon, problem: str) -> None:
    """Wait until the log says so of an approver."""

    def said() -> bool:
        found = daemon.records(verb="ask.answer", verdict="ask")
        return any(problem in each["reason"] for each in found)

    wait_until(said, LATE)
