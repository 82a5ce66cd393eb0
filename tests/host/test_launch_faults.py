# SPDX-License-Identifier: Apache-2.0
"""Launches that go wrong: hostile messages, and either side ending at any step.

Whatever happens: CMD does not run half confined, the daemon serves the next one, and no session,
cgroup, row, descriptor or process is left.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from monitor.kernel.cgroup import unified_mount
from tests.support import launcher
from tests.support.daemon import Daemon, User, wait_until
from tests.support.launcher import Remains

SECONDS = 1.5  # launch_seconds of this module's daemon

PROFILE = (
    'include: [base]\nfiles: {read: [/proc/**], write: ["{home}/**"], execute: ["{home}/**"]}\n'
)


@pytest.fixture(scope="module")
def daemon(user: User) -> Iterator[Daemon]:
    made = Daemon(user, {"limits": {"launch_seconds": SECONDS}})
    try:
        made.start()
        yield made
    finally:
        made.clean()


@pytest.fixture(scope="module")
def profile(daemon: Daemon) -> str:
    return daemon.profile("faults", PROFILE)


@pytest.fixture(autouse=True)
def nothing_is_left(daemon: Daemon, profile: str) -> Iterator[None]:
    # The first launch of a daemon opens what it keeps open.
    assert daemon.exec(profile, ["/bin/true"]).returncode == 0
    remains = Remains(daemon)
    worker = daemon.worker_pid()
    yield
    remains.none()
    assert daemon.worker_pid() == worker, daemon.log_text()
    assert daemon.exec(profile, ["/bin/true"]).returncode == 0


def answers(daemon: Daemon, profile: str, script: str, user: User | None = None) -> list[str]:
    """What the daemon answers to a script, line by line."""
    done = launcher.run(daemon, profile, script, user)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# -- messages ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\0", "unknown message"),
        (b"request", "cut short"),
        (b"request\0", "agent is missing"),
        (b"hello\0", "unknown message 'hello'"),
        (b"\xff\xff\xff\xff", "cut short"),
        (b"child\0", "`child` came where `request` is due"),
        (b"confined\0", "`confined` came where `request` is due"),
        (b"go\0", "`go` came where `request` is due"),
        (b"request\0agent=a\0workspace=/\0cwd=/\0color=red\0", "unknown field 'color'"),
        (b"request\0agent=a\0workspace=/\0cwd=/\0agent=b\0", "agent is repeated"),
        (b"request\0agent=a\0workspace=w\0cwd=/\0", "workspace is not an absolute path"),
        (b"request\0" + b"environ=" + b"x" * 70_000 + b"\0", "more than 65536 bytes"),
    ],
    ids=range(12),
)
def test_what_is_no_request(daemon: Daemon, profile: str, data: bytes, what: str) -> None:
    first, second = answers(daemon, profile, f"raw({data!r}); answer(); answer()")
    assert first.startswith("refused launch message: ")
    assert what in first
    assert second == "closed"


def test_an_empty_message_is_the_end(daemon: Daemon, profile: str) -> None:
    assert answers(daemon, profile, "raw(b''); answer()") == ["closed"]


@pytest.mark.parametrize("count", [1, 2, 64, 200])
def test_descriptors_are_not_taken(daemon: Daemon, profile: str, count: int) -> None:
    script = f"""
    read_end, write_end = os.pipe()
    raw(protocol.encode("request", *fields()), [read_end] * {count})
    os.close(read_end)
    answer()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        os.write(write_end, b"x")
        print("somebody holds it")
    except BrokenPipeError:
        print("nobody holds it")
    """
    first, second = answers(daemon, profile, script)
    assert first.startswith("refused launch message: `request` came with ")
    assert "descriptors, not 0" in first
    assert second == "nobody holds it"


def test_a_launch_by_hand_works(daemon: Daemon, profile: str) -> None:
    """The scripts of the next tests leave something out of this."""
    script = """
    made = session()
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    print("status", fork(lambda: child(made).run(write_end, set())))
    """
    assert answers(daemon, profile, script) == ["status 0"]


@pytest.mark.parametrize(
    ("before", "what"),
    [
        ("channel.send('child'), channel.send('child')", "`child` came where `confined` is due"),
        ("channel.send('child'), channel.send('unshared')", "`unshared` came where"),
        ("channel.send('confined')", "`confined` came where `child` is due"),
        ("channel.send('request', *fields())", "`request` came where `child` is due"),
        ("channel.send('child'), channel.send('confined')", "not confined as it must be"),
    ],
    ids=["two", "unshared", "early", "again", "bare"],
)
def test_a_child_that_keeps_another_order(
    daemon: Daemon, profile: str, before: str, what: str
) -> None:
    script = f"made = session(); fork(lambda: ({before}, answer(), answer()))"
    first, *rest = answers(daemon, profile, script)
    assert first.startswith("refused ")
    assert what in first
    # A child in the session's cgroup is killed with it; any other sees the end.
    assert not rest or rest[0].startswith(("closed", "notice "))


def test_the_launcher_cannot_be_its_own_child(daemon: Daemon, profile: str) -> None:
    (line,) = answers(daemon, profile, "session(); channel.send('child'); answer()")
    assert "is not a child of the launcher" in line


def test_a_grandchild_is_no_child(daemon: Daemon, profile: str) -> None:
    script = "session(); fork(lambda: fork(lambda: (channel.send('child'), answer())))"
    (line,) = answers(daemon, profile, script)
    assert "is not a child of the launcher" in line


def test_another_child_cannot_say_that_it_is_confined(daemon: Daemon, profile: str) -> None:
    script = """
    session()
    first = os.fork()
    if first == 0:
        channel.send("child")
        time.sleep(20)
    time.sleep(0.2)
    fork(lambda: (channel.send("confined"), answer()))
    os.waitpid(first, 0)
    """
    (line,) = answers(daemon, profile, script)
    assert line.startswith("refused ")


@pytest.mark.parametrize(
    ("left_out", "what"),
    [
        ("kernel.install_filter = lambda code, listen: 0", "seccomp mode 0"),
        ("kernel.close_on_exec = lambda first: os.set_inheritable(os.open('/', 0), True)", "kept"),
        (
            "real = kernel.install_filter\n"
            "kernel.install_filter = lambda code, listen: ("
            "real(code, listen=False), real(code, listen=listen))",
            "seccomp filters 2",
        ),
        (
            "real = kernel.install_filter\n"
            "kernel.install_filter = lambda code, listen: ("
            "time.sleep(0.3), os.fork() or time.sleep(20), real(code, listen=listen))",
            "processes of the cgroup",
        ),
    ],
    ids=["filter", "descriptors", "more-filters", "more-processes"],
)
def test_what_the_child_does_not_wear_is_found(
    daemon: Daemon, profile: str, left_out: str, what: str
) -> None:
    script = f"""
made = session()
{left_out}
read_end, write_end = os.pipe2(os.O_CLOEXEC)
print("status", fork(lambda: child(made).run(write_end, set())))
os.close(write_end)
print(os.read(read_end, 4096))
"""
    lines = answers(daemon, profile, script)
    assert lines[0] != "status 0"
    assert "the process is not confined as it must be" in lines[1]
    assert what in lines[1]


def test_the_lifeline_is_not_for_talking(daemon: Daemon, profile: str) -> None:
    """Anything that a launcher says while CMD runs ends the session."""
    script = """
    made = session()
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    runs = child(made)
    runs.command = ["/bin/sleep", "30"]
    pid = os.fork()
    if pid == 0:
        runs.parent = os.getppid()
        runs.run(write_end, set())
    os.close(write_end)
    while os.read(read_end, 100):
        pass
    channel.send("child")
    print("signal", os.waitpid(pid, 0)[1])
    """
    assert answers(daemon, profile, script) == ["signal 9"]


# -- time and ends -----------------------------------------------------------------------------


def test_a_silent_client_is_dropped(daemon: Daemon, profile: str) -> None:
    began = time.monotonic()
    first, second = answers(daemon, profile, "answer(); answer()")
    assert first.startswith("refused the launch was not done within 1.5 s (at: read the request)")
    assert second == "closed"
    assert SECONDS <= time.monotonic() - began < SECONDS + 5


def test_a_client_that_stops_after_the_session_is_dropped(daemon: Daemon, profile: str) -> None:
    (line,) = answers(daemon, profile, "session(); answer()")
    assert "not done within 1.5 s (at: wait for the child)" in line


@pytest.mark.parametrize(
    "script",
    [
        "pass",
        "raw(protocol.encode('request', *fields()))",
        "session()",
        "session(); fork(lambda: channel.send('child'))",
        "session(); fork(lambda: (channel.send('child'), time.sleep(0.05)))",
        "made = session(); fork(lambda: child(made).confine())",
    ],
    ids=["connect", "request", "session", "child", "entered", "confined"],
)
def test_a_client_that_closes(daemon: Daemon, profile: str, script: str) -> None:
    assert answers(daemon, profile, script) == []


@pytest.mark.parametrize("delay", [0.0, 0.005, 0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.05])
def test_a_launcher_that_is_killed(daemon: Daemon, profile: str, delay: float) -> None:
    process = daemon.spawn(profile, ["/bin/sleep", "60"])
    time.sleep(delay)
    process.kill()
    # Both ends of its pipes are the command's too: they close when it is gone.
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("step", ["channel.send", "kernel.prctl", "kernel.landlock_restrict"])
def test_a_child_that_is_killed(daemon: Daemon, profile: str, step: str) -> None:
    script = f"""
made = session()
{step} = lambda *a: os.kill(os.getpid(), 9)
read_end, write_end = os.pipe2(os.O_CLOEXEC)
print("status", fork(lambda: child(made).run(write_end, set())))
"""
    assert answers(daemon, profile, script) == ["status 9"]


def test_a_child_whose_launcher_dies_does_not_start(daemon: Daemon, profile: str) -> None:
    marker = daemon.user.home / "started"
    script = f"""
made = session()
last = kernel.install_filter
def slow(code, listen):
    listener = last(code, listen=listen)
    time.sleep(0.5)
    return listener
kernel.install_filter = slow
runs = child(made)
runs.command = ["/usr/bin/touch", {str(marker)!r}]
pid = os.fork()
if pid == 0:
    runs.parent = os.getppid()
    runs.run(os.pipe()[1], set())
time.sleep(0.3)
os.kill(os.getpid(), 9)
"""
    done = launcher.run(daemon, profile, script)
    assert done.returncode == -signal.SIGKILL
    assert not marker.exists()


@pytest.mark.parametrize(
    "step", ["landlock_ruleset", "landlock_restrict", "install_filter", "close_on_exec"]
)
def test_a_step_that_fails_is_named(daemon: Daemon, profile: str, step: str) -> None:
    script = f"""
made = session()
def fails(*a, **more):
    raise OSError(1, "no")
kernel.{step} = fails
read_end, write_end = os.pipe2(os.O_CLOEXEC)
print("status", os.waitstatus_to_exitcode(fork(lambda: child(made).run(write_end, set()))))
os.close(write_end)
print(os.read(read_end, 4096))
"""
    status, text = answers(daemon, profile, script)
    assert status == "status 125"
    assert "cannot " in text
    assert "Operation not permitted" in text


def test_a_session_that_is_killed_during_its_launch(daemon: Daemon, profile: str) -> None:
    script = "session(); fork(lambda: (channel.send('child'), time.sleep(1), print('still here')))"
    with launcher.start(daemon, profile, script) as process:
        wait_until(lambda: bool(daemon.sessions()))
        (found,) = daemon.sessions()
        status, _body = daemon.request("POST", f"/v1/sessions/{found['id']}/kill", {})
        assert status == 200
        output, _errors = process.communicate(timeout=20)
    assert output == ""


def test_ctrl_c_during_the_launch(daemon: Daemon, profile: str) -> None:
    """The daemon is stopped in the middle of it; the launcher still is not deaf."""
    os.kill(daemon.worker_pid(), signal.SIGSTOP)
    try:
        process = daemon.spawn(profile, ["/bin/true"])
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == -signal.SIGINT
        process.communicate()
    finally:
        os.kill(daemon.worker_pid(), signal.SIGCONT)


def test_idle_connections_do_not_keep_others_out(
    daemon: Daemon, profile: str, stranger: User
) -> None:
    script = """
    more = [Channel.connect(options.launch_socket()) for _ in range(200)]
    print("connected", flush=True)
    time.sleep(1)
    """
    with launcher.start(daemon, profile, script, stranger) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n", process.communicate()[1]
        assert daemon.exec(profile, ["/bin/true"]).returncode == 0
        process.communicate(timeout=20)


def test_many_launches_at_once(daemon: Daemon, profile: str) -> None:
    running = [daemon.spawn(profile, ["/bin/sh", "-c", "echo $$; exit 3"]) for _ in range(24)]
    outputs = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [3] * len(running), outputs


# -- the end of the daemon ---------------------------------------------------------------------


def test_the_worker_dies_during_a_launch(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon()
    daemon.start()
    profile = daemon.profile("faults", PROFILE)
    marker = daemon.user.home / "ran"
    for delay in (0.0, 0.01, 0.015, 0.02, 0.03):
        marker.unlink(missing_ok=True)
        process = daemon.spawn(profile, ["/bin/sh", "-c", f"sleep 0.2; echo x > {marker}"])
        time.sleep(delay)
        daemon.kill_worker()
        _output, errors = process.communicate(timeout=30)
        # Either it came too late for the launch, or there was none, or the next one served it.
        assert process.returncode in (0, 125), errors
        assert (process.returncode == 0) is marker.exists()
        daemon.settled()
    root = unified_mount() / daemon.instance
    wait_until(lambda: not [each for each in root.iterdir() if each.is_dir()])
