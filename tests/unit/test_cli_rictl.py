# SPDX-License-Identifier: Apache-2.0
"""rictl against an API of our own making: what it asks, what it prints, how it fails."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_api import SESSION, FakeApi, record, session

ROOT = Path(__file__).resolve().parents[2]
ESCAPE = "\x1b"


class Rictl:
    """Runs rictl with a socket, as scripts do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def command(self, *arguments: str | bytes) -> list[str | bytes]:
        return [sys.executable, "-m", "monitor.cli.rictl", *arguments]

    def environment(self, **changes: str) -> dict[str, str]:
        base = {"RI_SOCKET": str(self.path), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        return {**base, "TZ": "UTC", **changes}

    def __call__(
        self, *arguments: str | bytes, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            self.command(*arguments),
            capture_output=True,
            timeout=30,
            cwd=ROOT,
            env=self.environment(**(env or {})),
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    fake = FakeApi(tmp_path / "ri.sock")
    yield fake
    fake.close()


@pytest.fixture
def rictl(tmp_path: Path) -> Rictl:
    return Rictl(tmp_path / "ri.sock")


def store(api: FakeApi, records: list[dict[str, Any]]) -> None:
    """Let the API answer as the daemon's store does: after, limit, newest."""

    def behaviour(_method: str, _path: str, query: dict[str, str], _body: Any) -> tuple[int, Any]:
        found = [each for each in records if each["id"] > int(query.get("after", 0))]
        limit = int(query["limit"])
        return 200, {"records": found[-limit:] if query.get("newest") else found[:limit]}

    api.behaviour = behaviour


# -- ps --------------------------------------------------------------------------------------------


def test_ps_shows_whole_ids_when_piped(api: FakeApi, rictl: Rictl) -> None:
    api.answers["/v1/sessions"] = {"sessions": [session(purpose="x" * 500)]}
    done = rictl("ps")
    header, row = done.stdout.decode().splitlines()
    assert header.split() == [
        *("ID", "AGENT", "CHAIN", "PROFILE", "STATE", "PID", "EXPIRES", "ALLOW", "DENY", "LOST")
    ]
    assert SESSION in row
    assert "spiffe://test.example/agent/demo/coder" in row
    assert "user:alice > demo/coder" in row
    assert ESCAPE not in row
    assert done.stderr == b""
    assert api.requests[0][1:3] == ("/v1/sessions", {"all": "0"})


def test_ps_counts_what_observed_sessions_would_have_been_denied(
    api: FakeApi, rictl: Rictl
) -> None:
    counts = {"allow": 1, "deny": 0, "would-deny": 7, "lost": 0}
    api.answers["/v1/sessions"] = {"sessions": [session(observe=True, counts=counts)]}
    assert "WOULD-DENY" in rictl("ps").stdout.decode()


def test_ps_all_says_why_sessions_ended(api: FakeApi, rictl: Rictl) -> None:
    api.answers["/v1/sessions"] = {"sessions": [session(state="ended", why="ttl is over")]}
    assert "ttl is over" in rictl("ps", "--all").stdout.decode()
    assert api.requests[0][2] == {"all": "1"}


@pytest.mark.parametrize(("width", "whole"), [(80, False), (200, True)])
def test_ps_fits_the_terminal_and_cuts_no_word(
    api: FakeApi, rictl: Rictl, width: int, whole: bool
) -> None:
    api.answers["/v1/sessions"] = {"sessions": [session(), session(state="frozen")]}
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environment = rictl.environment(TERM="dumb")
    subprocess.run(rictl.command("ps"), stdout=theirs, cwd=ROOT, env=environment)
    os.close(theirs)
    lines = os.read(ours, 65536).decode().splitlines()
    os.close(ours)
    assert len(lines) == 3
    assert max(map(len, lines)) <= width
    assert lines[1].split()[0] == (SESSION if whole else SESSION[-12:])
    assert "user:alice > demo/coder" in lines[1]


def test_ps_json_is_what_the_daemon_said(api: FakeApi, rictl: Rictl) -> None:
    answer = {"sessions": [session()]}
    api.answers["/v1/sessions"] = answer
    assert json.loads(rictl("ps", "--json").stdout) == answer


def test_ps_without_sessions_says_so_beside_the_output(api: FakeApi, rictl: Rictl) -> None:
    api.answers["/v1/sessions"] = {"sessions": []}
    done = rictl("ps")
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"no live sessions" in done.stderr


# -- log -------------------------------------------------------------------------------------------


def test_log_json_prints_every_record_as_one_line(api: FakeApi, rictl: Rictl) -> None:
    records = [record(number) for number in range(1, 2502)]
    store(api, records)
    lines = rictl("log", "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == records
    assert list(json.loads(lines[0])) == list(record(1))


def test_log_shows_the_newest_hundred(api: FakeApi, rictl: Rictl) -> None:
    store(api, [record(number) for number in range(1, 301)])
    lines = rictl("log").stdout.decode().splitlines()
    assert [int(line.split()[0]) for line in lines] == list(range(201, 301))


@pytest.mark.parametrize("limit", [1, 7, 1500, 2500, 9999])
def test_log_limit_gives_the_newest(api: FakeApi, rictl: Rictl, limit: int) -> None:
    store(api, [record(number) for number in range(1, 2501)])
    lines = rictl("log", "--json", "--limit", str(limit)).stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == list(range(max(1, 2501 - limit), 2501))


def test_log_passes_its_filters_on(api: FakeApi, rictl: Rictl) -> None:
    store(api, [])
    filters = {"session": "7f3a", "verdict": "deny", "verb": "net.connect", "agent": "*/coder"}
    options = [text for name, value in filters.items() for text in (f"--{name}", value)]
    assert rictl("log", *options, "--since", "10m").returncode == 0
    query = api.requests[0][2]
    assert {name: query[name] for name in filters} == filters
    assert abs(float(query["since"]) - (time.time() - 600)) < 30


def test_log_line_holds_what_a_person_asks_for(api: FakeApi, rictl: Rictl) -> None:
    store(api, [record(42, count=3)])
    line = rictl("log").stdout.decode()
    for part in ("42", "2026-01-31 13:00:00", SESSION, "deny", "file.open", "/etc/shadow"):
        assert part in line
    assert "(3 times)" in line
    assert "no rule of coding-agent lists it" in line


def test_an_agent_cannot_write_to_the_readers_terminal(api: FakeApi, rictl: Rictl) -> None:
    forged = "/tmp/\x1b[2J\r\n    43 2026-01-31 forged \u202e\udcff"
    store(api, [record(42, object=forged)])
    output = rictl("log").stdout.decode()
    assert len(output.splitlines()) == 1
    assert "\\x1b[2J\\r\\n" in output
    assert "\\u202e\\xff" in output
    assert json.loads(rictl("log", "--json").stdout)["object"] == forged


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C"}, {"LC_ALL": "POSIX"}, {"PYTHONIOENCODING": "latin-1"}]
)
def test_every_name_can_be_printed_in_every_locale(
    api: FakeApi, rictl: Rictl, locale: dict[str, str]
) -> None:
    store(api, [record(1, object="/srv/żółć 日本", reason="żółć")])
    environment = {**locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    for options in ([], ["--json"]):
        done = rictl("log", *options, env=environment)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"/srv/" in done.stdout


def test_odd_bytes_in_arguments_reach_the_daemon(api: FakeApi, rictl: Rictl) -> None:
    store(api, [])
    assert rictl("log", "--agent", b"caf\xe9*").returncode == 0
    assert os.fsencode(api.requests[0][2]["agent"]) == b"caf\xe9*"


def test_log_survives_a_reader_that_leaves(api: FakeApi, rictl: Rictl) -> None:
    store(api, [record(number, object="x" * 4000) for number in range(1, 3001)])
    process = subprocess.Popen(
        rictl.command("log", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=rictl.environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(30) == -signal.SIGPIPE
    assert errors == b""


def test_log_follow_goes_on_where_a_restarted_daemon_left_it(api: FakeApi, rictl: Rictl) -> None:
    lines = [json.dumps(record(number)).encode() + b"\n" for number in range(1, 7)]
    asked: list[str] = []

    def behaviour(_method: str, _path: str, query: dict[str, str], _body: Any) -> Any:
        if "follow" not in query:
            return 200, {"records": [record(1), record(2)]}
        asked.append(query["after"])
        if len(asked) == 1:
            return 200, lines[2] + lines[3] + lines[4][:20]  # cut off in the middle of a record
        if len(asked) == 2:
            return None
        time.sleep(0 if len(asked) == 3 else 60)
        return 200, lines[4] + lines[5]

    api.behaviour = behaviour
    process = subprocess.Popen(
        rictl.command("log", "--follow", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=rictl.environment(),
    )
    assert process.stdout is not None
    seen = [json.loads(process.stdout.readline())["id"] for _ in range(6)]
    process.send_signal(signal.SIGINT)
    _output, errors = process.communicate(timeout=30)
    assert seen == [1, 2, 3, 4, 5, 6]
    assert asked[:3] == ["2", "4", "4"]
    assert process.returncode == -signal.SIGINT
    assert errors == b""


def test_follow_may_start_with_what_comes_next(api: FakeApi, rictl: Rictl) -> None:
    line = json.dumps(record(43)).encode() + b"\n"

    def behaviour(_method: str, _path: str, query: dict[str, str], _body: Any) -> Any:
        if "follow" in query:
            return (200, line) if query["after"] == "42" else None
        return 200, {"records": [record(42)]}

    api.behaviour = behaviour
    process = subprocess.Popen(
        rictl.command("log", "-f", "--json", "--limit", "0"),
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=rictl.environment(),
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["id"] == 43
    process.kill()
    process.communicate()


def test_colours_only_on_a_terminal(api: FakeApi, rictl: Rictl) -> None:
    store(api, [record(1)])
    outputs = []
    for environment in ({"TERM": "xterm"}, {"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "dumb"}):
        ours, theirs = pty.openpty()
        subprocess.run(
            rictl.command("log"), stdout=theirs, cwd=ROOT, env=rictl.environment(**environment)
        )
        os.close(theirs)
        outputs.append(os.read(ours, 65536).decode())
        os.close(ours)
    assert f"{ESCAPE}[31mdeny" in outputs[0]
    assert ESCAPE not in outputs[1] + outputs[2] + rictl("log").stdout.decode()


def test_log_verify(api: FakeApi, rictl: Rictl) -> None:
    good = {"ok": True, "records": 12, "problem": "", "record": None}
    api.answers["/v1/log/verify"] = good
    assert b"12 records" in rictl("log", "verify").stdout
    bad = {"ok": False, "records": 12, "problem": "its hash does not fit", "record": 7}
    api.answers["/v1/log/verify"] = bad
    done = rictl("log", "verify")
    assert done.returncode == 1
    assert b"its hash does not fit (record 7)" in done.stderr
    done = rictl("log", "verify", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (1, bad)


# -- explain, doctor, sessions ---------------------------------------------------------------------


def test_explain_prints_the_text_safely(api: FakeApi, rictl: Rictl) -> None:
    answer = {"record": record(42), "explanation": {"rule": "x"}, "text": "denied\n  by \x1b[1m"}
    api.answers["/v1/records/42"] = answer
    assert rictl("explain", "42").stdout == b"denied\n  by \\x1b[1m\n"
    del answer["text"]
    assert json.loads(rictl("explain", "42", "--json").stdout) == answer


def test_doctor_fails_when_a_problem_stands(api: FakeApi, rictl: Rictl) -> None:
    controls = [
        {"name": "files", "mechanism": "Landlock", "active": True, "detail": "ABI 6"}
        | {"active_since": 0.5},
        {"name": "names", "mechanism": "LSM", "active": False, "missing": "bpf", "since": "5.7"},
    ]
    answer: dict[str, Any] = {"controls": controls, "problems": [], "notes": ["a note"]}
    api.answers["/v1/doctor"] = answer
    done = rictl("doctor")
    assert done.returncode == 0
    for part in (b"ABI 6", b"bpf (there since 5.7)", b"a note", b"no problems"):
        assert part in done.stdout
    answer["problems"] = ["the log cannot be written"]
    done = rictl("doctor")
    assert done.returncode == 1
    assert b"the log cannot be written" in done.stdout
    assert rictl("doctor", "--json").returncode == 1


@pytest.mark.parametrize("verb", ["freeze", "thaw", "kill"])
def test_sessions_are_changed_with_a_reason(api: FakeApi, rictl: Rictl, verb: str) -> None:
    answer = {
        "session": session(state="frozen"),
        "steps": [{"name": "frozen", "milliseconds": 1.25}],
    }
    api.answers[f"/v1/sessions/7f3a/{verb}"] = answer
    done = rictl(verb, "7f3a", "--why", "żal")
    assert done.stdout.decode() == f"session {SESSION} is frozen (frozen 1.2 ms)\n"
    assert api.requests == [("POST", f"/v1/sessions/7f3a/{verb}", {}, {"why": "żal"})]
    assert json.loads(rictl(verb, "7f3a", "--json").stdout) == answer


def test_a_reference_cannot_leave_its_place_in_the_path(api: FakeApi, rictl: Rictl) -> None:
    done = rictl("kill", "../../v1/doctor?x=1#y")
    assert done.returncode == 1
    assert api.requests[0][1] == "/v1/sessions/..%2F..%2Fv1%2Fdoctor%3Fx%3D1%23y/kill"


# -- failures --------------------------------------------------------------------------------------


def test_a_refusal_is_status_1_with_its_hint(api: FakeApi, rictl: Rictl) -> None:
    done = rictl("explain", "7")
    assert done.returncode == 1
    assert done.stderr == b"rictl: nothing at /v1/records/7\nhint: ask for something else\n"


def test_a_question_that_the_daemon_does_not_understand_is_status_2(
    api: FakeApi, rictl: Rictl
) -> None:
    api.behaviour = lambda *_: (400, {"error": "agent is longer than 1024 characters"})
    done = rictl("log", "--agent", "x" * 1025)
    assert (done.returncode, done.stderr) == (2, b"rictl: agent is longer than 1024 characters\n")


def test_no_daemon_is_status_3(rictl: Rictl, tmp_path: Path) -> None:
    done = rictl("ps")
    assert done.returncode == 3
    assert str(tmp_path / "ri.sock").encode() in done.stderr
    assert b"systemctl start ri-monitord" in done.stderr
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "ri.sock"))
    assert rictl("ps").returncode == 3
    assert rictl("ps", env={"RI_SOCKET": "/" + "x" * 200}).returncode == 3


def test_the_socket_may_be_named_before_and_after_the_command(
    api: FakeApi, rictl: Rictl, tmp_path: Path
) -> None:
    api.answers["/v1/sessions"] = {"sessions": [session()]}
    api.answers["/v1/log/verify"] = {"ok": True, "records": 1, "problem": "", "record": None}
    nowhere = {"RI_SOCKET": str(tmp_path / "nowhere")}
    path = str(tmp_path / "ri.sock")
    for arguments in (
        ("--socket", path, "ps"),
        ("ps", "--socket", path),
        ("--socket", "/wrong", "ps", "--socket", path),
        ("log", "--socket", path, "verify"),
        ("log", "verify", "--socket", path),
    ):
        assert rictl(*arguments, env=nowhere).returncode == 0, arguments
    assert rictl("ps", env=nowhere).returncode == 3


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"{", b"\xff\xfe"])
def test_another_server_is_named_as_such(api: FakeApi, rictl: Rictl, body: bytes) -> None:
    api.behaviour = lambda *_: (200, body)
    done = rictl("ps")
    assert done.returncode == 3
    assert b"not ri-monitord" in done.stderr
    api.behaviour = lambda *_: (500, body)
    done = rictl("ps")
    assert done.returncode == 1
    assert b"status 500" in done.stderr


def test_a_restart_between_question_and_answer_is_asked_again(api: FakeApi, rictl: Rictl) -> None:
    tries = iter((None, (200, {"sessions": [session()]})))
    api.behaviour = lambda *_: next(tries)
    assert rictl("ps").returncode == 0
    api.behaviour = lambda *_: None
    done = rictl("kill", "7f3a")  # a change is not repeated: nobody knows whether it was made
    assert done.returncode == 3
    assert len(api.requests) == 3


def test_answers_that_lack_what_was_agreed_are_no_traceback(api: FakeApi, rictl: Rictl) -> None:
    api.answers["/v1/sessions"] = {"other": 1}
    done = rictl("ps")
    assert done.returncode == 1
    assert b"defect" in done.stderr


def test_the_tree_shows_every_link(api: FakeApi, rictl: Rictl) -> None:
    domain = "spiffe://test.example/agent/"
    coder, tester = f"{domain}demo/coder", f"{domain}tester"
    foreign = "spiffe://other.example/agent/tester"
    listed: list[tuple[list[str], dict[str, Any]]] = [
        (["user:bob", tester], {"state": "ended", "why": "over"}),
        (["user:alice", coder], {"purpose": "fix \x1b it"}),
        (["user:alice", coder, tester], {"denied": "revoked", "expires": 1.0}),
        (["user:alice", coder, foreign], {"state": "frozen", "hold": "expiry"}),
        (["user:alice", coder, tester], {}),
    ]
    api.answers["/v1/sessions"] = {
        "sessions": [
            session(id=f"0199aaaa-bbbb-7ccc-8ddd-eeeeffff000{number}", chain=chain, **changes)
            for number, (chain, changes) in enumerate(listed)
        ]
    }
    done = rictl("ps", "--tree", "--all")
    assert (done.returncode, done.stderr) == (0, b"")
    start = "0199aaaa-bbbb-7ccc-8ddd-eeeeffff000"
    assert done.stdout.decode().splitlines() == [
        "user:alice",
        "  demo/coder",
        f"    {start}1  running  coding-agent  expires never  fix \\x1b it",
        f"    {foreign}",
        f"      {start}3  frozen, expired  coding-agent  expires never",
        f"    {tester}",
        f"      {start}2  revoked  coding-agent  expires over",
        f"      {start}4  running  coding-agent  expires never",
        "user:bob",
        "  tester",
        f"    {start}0  ended  coding-agent",
    ]
    api.answers["/v1/sessions"] = {"sessions": []}
    assert rictl("ps", "--tree").stdout == b""


def test_the_tree_shows_sub_agents_in_their_session(api: FakeApi, rictl: Rictl) -> None:
    coder, tester = (f"spiffe://test.example/agent/{name}" for name in ("coder", "tester"))
    start = "0199aaaa-bbbb-7ccc-8ddd-eeeeffff000"
    listed: list[tuple[list[str], str | None]] = [
        (["user:alice", coder], None),
        (["user:alice", coder], None),
        (["user:alice", coder, tester], f"{start}1"),
        (["user:alice", coder, tester, coder], f"{start}2"),
        # What it runs in is not shown to whoever asks.
        (["user:alice", coder, tester], f"{start}9"),
    ]
    api.answers["/v1/sessions"] = {
        "sessions": [
            session(id=f"{start}{number}", chain=chain, inside=inside)
            for number, (chain, inside) in enumerate(listed)
        ]
    }
    told = "running  coding-agent  expires never"
    assert rictl("ps", "--tree").stdout.decode().splitlines() == [
        "user:alice",
        "  coder",
        f"    {start}0  {told}",
        f"    {start}1  {told}",
        "      tester",
        f"        {start}2  {told}",
        "          coder",
        f"            {start}3  {told}",
        "    tester",
        f"      {start}4  {told}",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("pss",),
        ("log", "--since", "yesteryear"),
        ("log", "--verdict", "denied"),
        ("log", "--verb", "file.eat"),
        ("log", "--limit", "-1"),
        ("log", "nonsense"),
        ("explain", "0"),
        ("explain", "x"),
        ("explain",),
        ("kill",),
        ("revoke",),
        ("revoke", "x", "--then", "forget"),
        ("profile", "show", "x", "--json"),
        (),
    ],
)
def test_usage_is_status_2(rictl: Rictl, arguments: tuple[str, ...]) -> None:
    done = rictl(*arguments)
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr


def test_a_full_disk_is_said(api: FakeApi, rictl: Rictl) -> None:
    store(api, [record(1)])
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            rictl.command("log"),
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=rictl.environment(),
        )
    assert done.returncode == 1
    assert b"No space left" in done.stderr
    assert b"Exception" not in done.stderr


def test_closed_output_is_no_traceback(api: FakeApi, rictl: Rictl) -> None:
    store(api, [record(1)])
    command = " ".join(map(str, rictl.command("log")))
    for closing in (">&-", ">&- 2>&-", "<&-"):
        done = subprocess.run(
            ["/bin/sh", "-c", f"{command} {closing}"],
            capture_output=True,
            cwd=ROOT,
            env=rictl.environment(),
        )
        assert b"Traceback" not in done.stderr
        assert b"Exception" not in done.stderr


# -- what it costs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("--help",), ("ps",), ("log",), ("explain", "1")])
def test_only_what_is_needed_is_imported(
    api: FakeApi, rictl: Rictl, arguments: tuple[str, ...]
) -> None:
    api.answers["/v1/sessions"] = {"sessions": [session()]}
    api.answers["/v1/records"] = {"records": [record(1)]}
    api.answers["/v1/records/1"] = {"record": {}, "explanation": {}, "text": ""}
    done = rictl(*arguments, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines()}
    heavy = {"pydantic", "ruamel.yaml", "aiohttp", "numpy", "psutil", "pyroute2", "sqlite3"}
    if arguments != ("ps",):
        heavy |= {"rich", "rich.table"}
    assert "typer" in imported
    assert not imported & heavy
