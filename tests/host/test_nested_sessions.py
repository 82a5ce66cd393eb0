# SPDX-License-Identifier: Apache-2.0
"""Sessions inside sessions: what a sub-agent may do is what every link allows, and no more."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.daemon import Daemon, User, delegations_for, wait_until
from tests.support.launcher import PRELUDE

DEPTH = 2
# What each profile lists, of the three that there are of everything.
LISTED = {"outer": ("both", "outer"), "inner": ("both", "inner")}
ANSWERS = """
import json, os, socket, sys
area, ports = sys.argv[1], json.loads(sys.argv[2])
answers = {}
def attempt(name, action):
    try:
        action()
        answers[name] = 0
    except OSError as error:
        answers[name] = error.errno
for name in ("both", "outer", "inner"):
    path = f"{area}/{name}"
    attempt(f"read {name}", lambda: open(f"{path}/file").read())
    attempt(f"write {name}", lambda: open(f"{path}/made", "w").close())
    attempt(f"run {name}", lambda: os.waitpid(os.posix_spawn(f"{path}/true", ["true"], {}), 0))
    attempt(f"connect {name}", lambda: socket.create_connection(("127.0.0.1", ports[name]), 5))
    attempt(f"unix {name}", lambda: socket.socket(socket.AF_UNIX).connect(f"{path}/socket"))
attempt("getpriority", lambda: os.getpriority(os.PRIO_PROCESS, 0))
attempt("sched_yield", os.sched_yield)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def area(user: User) -> Iterator[Path]:
    """Folders both, outer and inner: a file, a program, a socket in each."""
    area = user.home / "area"
    listeners = []
    for name in ("both", "outer", "inner"):
        folder = area / name
        folder.mkdir(parents=True)
        (folder / "file").write_text(name)
        (folder / "true").write_bytes(Path("/usr/bin/true").read_bytes())
        (folder / "true").chmod(0o755)
        listeners.append(socket.socket(socket.AF_UNIX))
        listeners[-1].bind(str(folder / "socket"))
        listeners[-1].listen(100)
        (folder / "socket").chmod(0o777)
    for path in (area, *area.rglob("*")):
        os.chown(path, user.uid, user.gid)
    yield area
    for each in listeners:
        each.close()


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    listeners = {
        name: socket.create_server(("127.0.0.1", 0)) for name in ("both", "outer", "inner")
    }
    yield {name: each.getsockname()[1] for name, each in listeners.items()}
    for each in listeners.values():
        each.close()


@pytest.fixture(scope="module")
def daemon(user: User, area: Path, ports: dict[str, int]) -> Iterator[Daemon]:
    made = Daemon(user)
    rights = delegations_for(user)
    rights["delegations"][0] |= {"depth": DEPTH, "delegate": {"max_ttl": "2h", "max_depth": 2}}
    made.write(made.delegations, rights)
    denied = {"outer": "getpriority", "inner": "sched_yield"}
    for profile, names in LISTED.items():
        trees = [f"{area}/{name}/**" for name in names]
        made.profile(
            profile,
            f"include: [base]\n"
            f"files: {{read: {json.dumps(trees)}, write: {json.dumps(trees)},"
            f" execute: {json.dumps(trees)}}}\n"
            f"network: {{connect: {json.dumps([f'127.0.0.1:{ports[name]}' for name in names])},"
            f" unix: {json.dumps([f'{area}/{name}/socket' for name in names])}}}\n"
            f"syscalls: {{deny: [{denied[profile]}]}}\n",
        )
    made.profile("plain", f"include: [base]\nfiles: {{read: [{area}/**], write: [{area}/**]}}\n")
    try:
        made.start()
        yield made
    finally:
        made.clean()


@pytest.fixture
def ask(area: Path, ports: dict[str, int]) -> list[str]:
    """The command that tries everything."""
    return ["/usr/bin/python3", "-I", "-S", "-c", ANSWERS, str(area), json.dumps(ports)]


def answers(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def nested(
    daemon: Daemon, command: list[str], *options: str, profile: str | None = "inner"
) -> list[str]:
    """The command of a sub-agent that runs `command`."""
    return daemon.exec_command(profile, command, *options)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Why the launch was refused: one line, and perhaps what can be done."""
    assert done.returncode == 125, done
    lines = [line for line in done.stderr.splitlines() if not line.startswith("ri-exec: denied ")]
    reason, *hint = lines
    assert all(line.startswith("hint: ") for line in hint), done.stderr
    return reason.removeprefix("ri-exec: ")


def assert_no_way(done: subprocess.CompletedProcess[str]) -> None:
    """Neither the launcher nor the daemon can be reached."""
    assert (done.returncode, done.stdout) in {(2, ""), (125, "")}, done
    assert "can't open file" in done.stderr or "cannot reach the daemon" in done.stderr, done.stderr


# -- what it may do --------------------------------------------------------------------------------


def test_a_sub_agent_may_do_what_every_link_allows(
    daemon: Daemon, area: Path, ask: list[str]
) -> None:
    outer, inner = answers(daemon.exec("outer", ask)), answers(daemon.exec("inner", ask))
    assert {name for name, answer in outer.items() if answer} == {
        "getpriority",
        *(f"{verb} inner" for verb in ("read", "write", "run", "connect", "unix")),
    }
    assert {name for name, answer in inner.items() if answer} == {
        "sched_yield",
        *(f"{verb} outer" for verb in ("read", "write", "run", "connect", "unix")),
    }
    both = answers(daemon.exec("outer", nested(daemon, ask)))
    refused = {name for name, answer in both.items() if answer}
    assert refused == {name for name in both if outer[name] or inner[name]}
    assert len(refused) == 12
    daemon.settled()
    session = daemon.sessions(everything=True)[-1]
    assert [name.rpartition("/")[2] for name in session["chain"][1:]] == ["outer", "inner"]
    assert session["profile"] == "inner"


def test_records_name_the_link_that_refused(daemon: Daemon, area: Path, ask: list[str]) -> None:
    daemon.exec("outer", nested(daemon, ask))
    daemon.settled()
    inner = max(daemon.sessions(everything=True), key=lambda each: each["id"])
    assert inner["inside"] is not None
    records = daemon.records(session=inner["id"], verdict="deny", limit=1000)
    rules = {}
    for record in records:
        assert record["chain"] == inner["chain"]
        _status, body = daemon.request("GET", f"/v1/records/{record['id']}")
        rules[record["verb"], record["object"]] = body["explanation"]["refused_by"]
    for name, by in (("inner", "outer"), ("outer", "inner")):
        assert rules["file.open", f"{area}/{name}/file"] == by
        assert rules["net.unix", f"{area}/{name}/socket"] == by


def test_further_sub_agents_down_to_the_depth(daemon: Daemon, ask: list[str], area: Path) -> None:
    third = nested(daemon, ["cat", f"{area}/both/file"], profile="plain")
    fourth = nested(daemon, third, profile="plain")
    done = daemon.exec("outer", nested(daemon, third))
    assert (done.returncode, done.stdout) == (0, "both")
    done = daemon.exec("outer", nested(daemon, fourth))
    assert_no_way(done)
    assert_no_way(daemon.exec("outer", nested(daemon, third, "--depth", "0")))
    reason = refused(daemon.exec("outer", nested(daemon, third, "--depth", "2")))
    assert reason == "--depth: a sub-agent of this session may have 1 below it at most"


def test_without_depth_there_is_no_way_to_the_daemon(
    daemon: Daemon, user: User, area: Path
) -> None:
    command = nested(daemon, ["true"])
    done = daemon.exec("outer", command, "--depth", "0", env=daemon.environment(user))
    assert_no_way(done)
    # The environment does not name it either, and with a depth only the launch socket is open.
    script = "import os, socket; print(os.environ.get('RI_SOCKET'))\n" + "".join(
        "s = socket.socket(socket.AF_UNIX, getattr(socket, kind))\n"
        f"try: s.connect('{path}'); print('open')\n"
        "except OSError as error: print(error.errno)\n".replace("kind", repr(kind))
        for path, kind in (
            (daemon.socket, "SOCK_STREAM"),
            (daemon.socket.parent / "launch.sock", "SOCK_SEQPACKET"),
        )
    )
    python = ["/usr/bin/python3", "-I", "-S", "-c", script]
    shut = daemon.exec("outer", python, "--depth", "0").stdout.split()
    assert shut[0] == "None"
    assert {shut[1], shut[2]} <= {str(errno.EPERM), str(errno.ENOENT), str(errno.EACCES)}
    told, api, launch = daemon.exec("outer", python).stdout.split()
    assert told == str(daemon.socket)
    assert api in {str(errno.EPERM), str(errno.ENOENT), str(errno.EACCES)}
    assert launch == "open"


# -- what it may ask for ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "profile", "reason"),
    [
        (("--observe",), "inner", "--observe is not to be had inside a session"),
        (("--user", "root"), "inner", "a sub-agent runs as the user of the session that it is"),
        ((), "/usr/share/x.yaml", "cannot read /usr/share/x.yaml"),
        ((), "absent", "the profile cannot be used: "),
        (("--agent", "a b"), "inner", "'a b' is not an agent's name"),
        (("--ttl", "x"), "inner", "--ttl: "),
        (("--depth", "-1"), "inner", "--depth: a number from 0 on"),
    ],
)
def test_what_cannot_be_had_inside(
    daemon: Daemon, options: tuple[str, ...], profile: str, reason: str
) -> None:
    done = daemon.exec("outer", nested(daemon, ["true"], *options, profile=profile))
    assert reason in refused(done)
    daemon.settled()


def test_a_profile_of_its_own_is_refused(daemon: Daemon, area: Path, user: User) -> None:
    file = area / "both" / "own.yaml"
    file.write_text("name: own\ninclude: [base]\n")
    os.chown(file, user.uid, user.gid)
    reason = refused(daemon.exec("outer", nested(daemon, ["true"], profile=str(file))))
    assert reason == "a sub-agent's profile cannot be a file of its own"
    assert daemon.exec(str(file), ["true"]).returncode == 0


def test_a_deny_inside_granted_trees_must_stand_above_too(
    daemon: Daemon, area: Path, user: User
) -> None:
    grants = f"include: [base]\nfiles: {{read: [{area}/**], write: [{area}/**]"
    daemon.profile("denies", f"{grants}, deny: ['{area}/both/file']}}\n")
    daemon.profile("denies-more", f"{grants}, deny: ['{area}/both']}}\n")
    daemon.profile("freezes", f"{grants}, read_only: ['{area}/both/file']}}\n")
    read = ["cat", f"{area}/both/file"]
    for outer in ("plain", "freezes"):
        reason = refused(daemon.exec(outer, nested(daemon, read, profile="denies")))
        assert "files.deny" in reason
        assert "shares its view" in reason
    for outer, inner in (("denies", "denies"), ("denies-more", "denies"), ("denies", "freezes")):
        done = daemon.exec(outer, nested(daemon, read, profile=inner))
        assert done.returncode == 1
        assert "Permission denied" in done.stderr, done.stderr
    daemon.profile("may-lack", f"{grants}, deny: ['{area}/both/file']}}\nmay_lack: [view]\n")
    done = daemon.exec("plain", nested(daemon, read, profile="may-lack"))
    assert (done.returncode, done.stdout) == (0, "both")


def test_a_profile_with_a_view_keeps_the_modes_of_what_may_not_be_written(
    daemon: Daemon, area: Path
) -> None:
    """A view's mounts refuse it; a session without one of its own has the calls refused."""
    rest = f"read: [{area}/**], deny: [{area}/absent]}}\n"
    daemon.profile("writes", f"include: [base]\nfiles: {{write: [{area}/**], {rest}")
    daemon.profile("reads", f"include: [base]\nfiles: {{write: [{area}/outer/**], {rest}")
    change = ["chmod", "644", f"{area}/both/file"]
    assert daemon.exec("writes", change).returncode == 0
    assert "Read-only file system" in daemon.exec("reads", change).stderr
    done = daemon.exec("writes", nested(daemon, change, profile="writes"))
    assert done.returncode == 0, done.stderr
    done = daemon.exec("writes", nested(daemon, change, profile="reads"))
    assert (done.returncode, "Operation not permitted" in done.stderr) == (1, True), done.stderr


def test_a_strict_session_has_sub_agents_too(daemon: Daemon, area: Path) -> None:
    daemon.profile(
        "strict",
        f"include: [base]\nfiles: {{read: [{area}/**]}}\nsyscalls: {{preset: strict}}\n",
    )
    done = daemon.exec("strict", nested(daemon, ["cat", f"{area}/both/file"], profile="strict"))
    assert (done.returncode, done.stdout) == (0, "both"), done.stderr


def test_the_launcher_is_reached_by_a_profile_that_grants_hardly_anything(
    daemon: Daemon, area: Path
) -> None:
    """What a launch needs is granted with the depth; what the profile denies stays denied."""
    tight = (
        f"files: {{read: [{area}/both/**], execute: [{area}/both/**]}}\n"
        "environment: {set: {PATH: /usr/bin}}\n"
    )
    daemon.profile("tight", tight)
    command = nested(daemon, [f"{area}/both/true"], profile="tight")
    done = daemon.exec("tight", command)
    assert done.returncode == 0, done.stderr
    done = daemon.exec("tight", command, "--depth", "0")
    assert (done.returncode, "denied" in done.stderr or "Permission" in done.stderr) == (126, True)


# -- what the gate holds ---------------------------------------------------------------------------


def test_what_may_only_be_read_is_taken_away_by_the_gate(
    daemon: Daemon, area: Path, user: User
) -> None:
    daemon.profile(
        "reads-some",
        f"include: [base]\nfiles: {{read: [{area}/**], deny: ['{area}/**/*.key', {area}/outer]}}\n",
    )
    (area / "both" / "old.key").write_text("secret")
    # The session above makes one while the sub-agent runs, and reads it itself.
    script = 'd=$1; shift; "$@" & sleep 2; echo new > $d/both/new.key; cat $d/both/new.key; wait'
    reads = (
        f"cd {area}; cat both/file; cat both/old.key; cat outer/file; sleep 4; cat both/new.key;"
        " cat inner/file"
    )
    command = nested(daemon, ["sh", "-c", reads], profile="reads-some")
    done = daemon.exec("plain", ["sh", "-c", script, "sh", str(area), *command])
    assert sorted(done.stdout.replace("both", "both ").replace("inner", "inner ").split()) == [
        "both",
        "inner",
        "new",
    ], (done.stdout, done.stderr)
    for name in ("both/old.key", "outer/file", "both/new.key"):
        assert f"cat: {name}: Operation not permitted" in done.stderr, done.stderr
    daemon.settled()
    inner = max(daemon.sessions(everything=True), key=lambda each: each["id"])
    denied = {
        record["object"]: record["rule"]
        for record in daemon.records(session=inner["id"], verdict="deny", limit=1000)
    }
    assert "files.deny" in denied[f"{area}/both/old.key"]


def test_programs_that_are_denied_beneath_are_denied_by_the_gate(
    daemon: Daemon, area: Path
) -> None:
    daemon.profile("runs-less", "include: [base]\nexec: {deny: [/usr/bin/id]}\n")
    inner = nested(daemon, ["sh", "-c", "/usr/bin/id -u; /usr/bin/echo ran"], profile="runs-less")
    done = daemon.exec("plain", ["sh", "-c", 'id -un; "$@"; id -un', "sh", *inner])
    first, *ran, last = done.stdout.split()
    assert (first, ran) == (last, ["ran"]), (done.stdout, done.stderr)
    assert "not permitted" in done.stderr or "denied" in done.stderr, done.stderr


def test_an_auditor_inside_a_coding_agent(daemon: Daemon, area: Path, user: User) -> None:
    """Two of the shipped profiles, as the howto has them."""
    place = user.home / "work"
    place.mkdir()
    for name in ("notes", ".env", ".env.example"):
        (place / name).write_text(name)
    for path in (place, *place.iterdir()):
        os.chown(path, user.uid, user.gid)
    reads = "cat notes; cat .env; cat .env.example; echo changed > notes"
    command = nested(daemon, ["sh", "-c", reads], profile="readonly-auditor")
    script = 'cat .env.example; "$@"; cat notes'
    done = daemon.exec("coding-agent", ["sh", "-c", script, "sh", *command], cwd=place)
    assert done.stdout == ".env.examplenotesnotes", (done.stdout, done.stderr)


def test_what_a_sub_agent_earns_counts_for_those_above(
    daemon: Daemon, area: Path, ports: dict[str, int]
) -> None:
    """A label of the session above, earned beneath, takes the network from both."""
    port = ports["both"]
    daemon.profile(
        "labelled",
        f"include: [base]\nfiles: {{read: [{area}/**]}}\n"
        f"network: {{connect: ['127.0.0.1:{port}']}}\n"
        f"labels: {{seen: {{files: [{area}/inner/file], then: {{network: {{only: []}}}}}}}}\n",
    )
    daemon.profile(
        "reads",
        f"include: [base]\nfiles: {{read: [{area}/**]}}\n"
        f"network: {{connect: ['127.0.0.1:{port}']}}\n",
    )
    connect = (
        "import socket\n"
        f"try: socket.create_connection(('127.0.0.1', {port}), 5); print('open')\n"
        "except OSError as error: print(error.errno)\n"
    )
    python = ["/usr/bin/python3", "-I", "-S", "-c", connect]
    once = '/usr/bin/python3 -I -S -c "$CONNECT"'
    for read, after in (("both", "open"), ("inner", str(errno.EPERM))):
        inside = ["sh", "-c", f"{once}; cat {area}/{read}/file > /dev/null; {once}"]
        inner = nested(daemon, ["env", f"CONNECT={connect}", *inside], profile="reads")
        outer = f'{once}; "$@"; {once}'
        command = ["env", f"CONNECT={connect}", "sh", "-c", outer, "sh", *inner]
        done = daemon.exec("labelled", command)
        assert done.stdout.split() == ["open", "open", after, after], (done.stdout, done.stderr)
    assert daemon.exec("labelled", python).stdout == "open\n"


# -- grants ----------------------------------------------------------------------------------------


def delegate(daemon: Daemon, user: User, *options: str) -> Path:
    file = user.home / "area" / "both" / f"{time.monotonic_ns()}.grant"
    done = daemon.rictl_as(user, "delegate", *options, "--out", str(file))
    assert done.returncode == 0, done.stderr
    return file


def test_a_grant_allows_as_many_as_its_depth(daemon: Daemon, user: User, ask: list[str]) -> None:
    for depth, works in (("1", True), ("0", False)):
        options = ("--agent", "coder", "--profile", "outer", "--depth", depth)
        file = delegate(daemon, user, *options)
        done = daemon.exec(None, nested(daemon, ask), "--grant", str(file))
        assert (done.returncode == 0) is works, done.stderr


def test_a_grant_made_of_the_sessions_own_gives_another(
    daemon: Daemon, user: User, ask: list[str]
) -> None:
    first = delegate(daemon, user, "--agent", "coder", "--profile", "outer", "--depth", "1")
    config = ("--config", str(daemon.config))
    second = delegate(
        daemon, user, "--from", str(first), "--agent", "tester", "--profile", "inner", *config
    )
    other = delegate(daemon, user, "--agent", "coder", "--profile", "outer", "--depth", "1")

    def start(grant: Path) -> subprocess.CompletedProcess[str]:
        inside = nested(daemon, ask, "--grant", str(grant), profile=None)
        return daemon.exec(None, inside, "--grant", str(first))

    both = answers(start(second))
    assert both["read both"] == 0
    assert both["read inner"] == both["read outer"] == errno.EACCES
    daemon.settled()
    session = max(daemon.sessions(everything=True), key=lambda each: each["id"])
    names = [name.rpartition("/")[2] for name in session["chain"][1:]]
    assert (names, session["inside"] is not None) == (["coder", "tester"], True)
    assert "only a grant that was made of the session's own" in refused(start(other))
    assert "the one that this session runs under" in refused(start(first))
    inside = nested(daemon, ask, "--grant", str(second), profile=None)
    assert "only a grant that was made" in refused(daemon.exec("outer", inside))


# -- attacks ---------------------------------------------------------------------------------------


def test_a_session_of_another_depth_does_not_lend_its_own(daemon: Daemon, area: Path) -> None:
    """A connection that a process makes stands for the session that it is in, and for that one."""
    script = (
        "import os, socket, subprocess, sys\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "s.connect(sys.argv[1])\n"
        "os.set_inheritable(s.fileno(), True)\n"
        "if os.fork(): os._exit(0)\n"  # its number may become another's
        "import time; time.sleep(0.3)\n"
        "try:\n"
        "    fields = b'agent=a', b'workspace=/tmp', b'cwd=/tmp', b'profile=inner', b'argv0=x'\n"
        "    s.send(b'\\0'.join((b'request', *fields, b'')))\n"
        "    print(s.recv(65536))\n"
        "except OSError as error: print(error)\n"
    )
    launch = daemon.socket.parent / "launch.sock"
    python = ["sh", "-c", '"$@" & wait; sleep 1', "sh", "/usr/bin/python3", "-I", "-c", script]
    done = daemon.exec("outer", [*python, str(launch)])
    assert "session" not in done.stdout.partition("refused")[0], done.stdout
    daemon.settled()


MOVE_OUT = """
other = Channel.connect(options.launch_socket())
made = session()
if os.fork() == 0:
    os.dup2(other.connection.fileno(), 0)
    attack = "import socket, time; time.sleep(1); s = socket.socket(fileno=0);"
    attack += "s.send(b'child' + bytes(1)); time.sleep(5)"
    command = ["/usr/bin/python3", "-I", "-S", "-c", attack]
    Child(channel, *made, command, os.getppid()).run(os.pipe()[1], set())
kept, channel = channel, other
channel.connection.settimeout(10)
channel.send("request", *fields(profile=b"plain"))
answer()
answer()
"""


def test_a_process_of_a_sub_agent_cannot_become_one_beside_it(daemon: Daemon) -> None:
    """Its own child in another session, and a connection of its own there: it stays where it is."""
    script = PRELUDE.format(root=str(ROOT), profile="inner") + MOVE_OUT
    done = daemon.exec("outer", ["/usr/bin/python3", "-I", "-S", "-c", script])
    first, second = done.stdout.splitlines()
    assert first.startswith("session "), (done.stdout, done.stderr)
    assert "is not where the launcher" in second, (done.stdout, done.stderr)
    daemon.settled()


def test_root_without_capabilities_has_sub_agents_too(daemon: Daemon, area: Path) -> None:
    daemon.profile("rooted", f"include: [base]\nfiles: {{read: [{area}/**]}}\nrun_as: root\n")
    root = User("root")
    read = ["cat", f"{area}/both/file", "/proc/self/status"]
    done = daemon.exec("rooted", nested(daemon, read, profile="rooted"), "--depth", "1", user=root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("both")
    assert "CapBnd:\t0000000000000000" in done.stdout
    done = daemon.exec("rooted", nested(daemon, read, profile="rooted"), user=root)
    assert done.returncode != 0
    reason = refused(
        daemon.exec("rooted", nested(daemon, ["true"], profile="plain"), "--depth", "1", user=root)
    )
    assert "does not say `run_as: root`" in reason


def test_a_fork_bomb_of_sessions_ends_at_the_limit(user: User) -> None:
    made = Daemon(user, {"limits": {"per_session": 3}})
    rights = delegations_for(user)
    rights["delegations"][0]["depth"] = 1
    made.write(made.delegations, rights)
    made.profile("plain", "include: [base]\n")
    try:
        made.start()
        inner = " ".join(made.exec_command("plain", ["sleep", "60"]))
        script = f"for i in 1 2 3 4 5 6; do {inner} & done; sleep 60"
        process = made.spawn("plain", ["sh", "-c", script])
        wait_until(lambda: len(made.sessions()) == 4)
        time.sleep(1)
        assert len([each for each in made.sessions() if each["inside"]]) == 3
        # The user's own sessions have all their room left.
        assert made.exec("plain", ["true"]).returncode == 0
        process.terminate()
        _output, errors = process.communicate(timeout=30)
        limits = ("3 sessions run in this one already", "too many of your launches")
        assert sum(errors.count(each) for each in limits) == 3, errors
        made.settled()
    finally:
        made.clean()
