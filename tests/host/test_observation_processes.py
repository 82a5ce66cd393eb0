# SPDX-License-Identifier: Apache-2.0
"""What the probes tell of processes: forks, program starts with their real arguments, exits."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from monitor.wire.events import AnyEvent, ExecEvent, ExitEvent, ForkEvent
from monitor.wire.layout import ARGUMENTS, SessionFlag
from tests.support.probes import Probes, inside, policy

TRUE = Path("/usr/bin/true")


def observed(probes: Probes, action: Callable[[], object]) -> tuple[Any, list[AnyEvent]]:
    """What `action` returned in a session that records every action, and the events."""
    probes.events()
    with probes.running(policy(), flags=SessionFlag.EVERY) as session:
        result = inside(session, action)
        events = probes.events(session)
    assert probes.reader.errors == 0
    assert [event.time for event in events] == sorted(event.time for event in events)
    return result, events


def of(events: Sequence[AnyEvent], kind: type[AnyEvent]) -> list[AnyEvent]:
    return [event for event in events if isinstance(event, kind)]


def run(argv: list[str] | list[bytes], program: str | Path = TRUE) -> int:
    """Fork, execute, wait; the child's pid."""
    pid = os.fork()
    if pid == 0:
        os.execv(program, argv)
    os.waitpid(pid, 0)
    return pid


def start(events: Sequence[AnyEvent], pid: int) -> ExecEvent:
    (found,) = [event for event in of(events, ExecEvent) if event.pid == pid]
    assert isinstance(found, ExecEvent)
    return found


def test_a_process_from_its_fork_to_its_exit(probes: Probes) -> None:
    def action() -> tuple[int, int]:
        return os.getpid(), run(["true"])

    (parent, child), events = observed(probes, action)
    (fork,) = of(events, ForkEvent)
    assert isinstance(fork, ForkEvent)
    assert (fork.pid, fork.tid, fork.child) == (parent, parent, child)
    begun = start(events, child)
    facts = TRUE.resolve().stat()
    assert (begun.path, begun.argv, begun.truncated) == (str(TRUE.resolve()), ("true",), False)
    assert (begun.inode, begun.device) == (facts.st_ino, kernel_device(facts.st_dev))
    assert begun.comm == "true"
    exits = of(events, ExitEvent)
    assert [(each.pid, each.status) for each in exits if isinstance(each, ExitEvent)] == [
        (child, 0),
        (parent, 0),
    ]
    assert fork.time < begun.time < exits[0].time


def kernel_device(device: int) -> int:
    """A dev_t of user space as the kernel holds it."""
    return os.major(device) << 20 | os.minor(device)


@pytest.mark.parametrize(
    "argv",
    [
        [b"true", b"", b"two words", b"\xff\xfe", b"-\n-"],
        [b"/not/its/name"],
        [b"true", *[b"%d" % number for number in range(500)]],
        [b"true", b"x" * (ARGUMENTS - 7), b""],
    ],
    ids=["odd", "another name", "many", "exactly full"],
)
def test_arguments_are_those_that_the_program_got(probes: Probes, argv: list[bytes]) -> None:
    child, events = observed(probes, lambda: run(argv))
    begun = start(events, child)
    assert [os.fsencode(each) for each in begun.argv] == argv
    assert not begun.truncated


def test_arguments_that_are_too_long_are_cut_and_say_so(probes: Probes) -> None:
    child, events = observed(probes, lambda: run(["true", "y" * 5000, "z"]))
    begun = start(events, child)
    assert begun.truncated
    assert begun.argv == ("true", "y" * (ARGUMENTS - 5))


def test_no_arguments_at_all(probes: Probes) -> None:
    """The kernel gives such a program one empty argument (since Linux 5.18)."""
    script = (
        "import ctypes, sys\nctypes.CDLL(None).execve(b'/usr/bin/true', None, None)\nsys.exit(9)"
    )

    def action() -> int:
        pid = os.fork()
        if pid == 0:
            exec(script)
        os.waitpid(pid, 0)
        return pid

    child, events = observed(probes, action)
    assert start(events, child).argv == ("",)


def test_the_file_that_runs_is_told_and_not_the_name_that_was_used(
    probes: Probes, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(TRUE)
    copy = tmp_path / ("n" * 255)
    copy.write_bytes(TRUE.read_bytes())
    copy.chmod(0o755)
    os.link(copy, tmp_path / "hard")
    script = tmp_path / "script"
    script.write_text("#!/usr/bin/true -x\n")
    script.chmod(0o755)
    expected = {
        str(tmp_path / "link"): str(TRUE.resolve()),
        str(copy): str(copy),
        str(tmp_path / "hard"): str(tmp_path / "hard"),
        f"{tmp_path}/../{tmp_path.name}/hard": str(tmp_path / "hard"),
        str(script): str(TRUE.resolve()),
        "/proc/self/root/usr/bin/true": str(TRUE.resolve()),
    }

    def action() -> dict[str, int]:
        return {name: run([name], name) for name in expected}

    children, events = observed(probes, action)
    for name, pid in children.items():
        begun = start(events, pid)
        assert begun.path == expected[name], name
        if name == str(script):
            # What the kernel made of it: the interpreter, its argument, the script.
            assert begun.argv == ("/usr/bin/true", "-x", str(script))
        else:
            assert begun.argv == (name,)


def test_a_program_in_memory(probes: Probes) -> None:
    def action() -> int:
        pid = os.fork()
        if pid == 0:
            memory = os.memfd_create("hidden")
            os.write(memory, TRUE.read_bytes())
            os.execve(memory, ["true"], {})
        os.waitpid(pid, 0)
        return pid

    child, events = observed(probes, action)
    assert start(events, child).path == "?/memfd:hidden"


def test_how_processes_end(probes: Probes) -> None:
    def child(end: Callable[[], object]) -> int:
        pid = os.fork()
        if pid == 0:
            end()
        os.waitpid(pid, 0)
        return pid

    def terminated() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)

    def by_a_thread() -> None:
        threading.Thread(target=lambda: os._exit(5)).start()
        signal.pause()

    def action() -> dict[str, int]:
        return {
            "status": child(lambda: os._exit(3)),
            "term": child(terminated),
            "thread": child(by_a_thread),
            "kill": child(lambda: os.kill(os.getpid(), signal.SIGKILL)),
        }

    children, events = observed(probes, action)
    ended = {each.pid: each.status for each in of(events, ExitEvent) if isinstance(each, ExitEvent)}
    assert {name: ended[pid] for name, pid in children.items()} == {
        "status": 3 << 8,
        "term": signal.SIGTERM,
        "thread": 5 << 8,
        "kill": signal.SIGKILL,
    }
    assert len(ended) == len(of(events, ExitEvent)) == 5


def test_threads_are_no_processes(probes: Probes) -> None:
    def action() -> int:
        threads = [threading.Thread(target=os.getpid) for _each in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return os.getpid()

    pid, events = observed(probes, action)
    assert of(events, ForkEvent) == []
    assert [event.pid for event in of(events, ExitEvent)] == [pid]


def test_a_thread_acts_under_its_own_number(probes: Probes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()

    def action() -> tuple[int, int]:
        found: list[int] = []

        def work() -> None:
            found.append(threading.get_native_id())
            path.read_bytes()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return os.getpid(), found[0]

    (pid, tid), events = observed(probes, action)
    (opened,) = [event for event in events if getattr(event, "path", "") == str(path)]
    assert (opened.pid, opened.tid) == (pid, tid)
    assert pid != tid


def test_a_thread_that_executes_becomes_the_process(probes: Probes) -> None:
    def action() -> int:
        pid = os.fork()
        if pid == 0:
            threading.Thread(target=lambda: os.execv(TRUE, ["true"])).start()
            signal.pause()
        os.waitpid(pid, 0)
        return pid

    child, events = observed(probes, action)
    begun = start(events, child)
    assert begun.tid == child
    assert [event.pid for event in of(events, ExitEvent)].count(child) == 1


@pytest.mark.parametrize("how", ["vfork", "posix_spawn"])
def test_every_way_to_make_a_process(probes: Probes, how: str) -> None:
    def action() -> int:
        if how == "vfork":
            process = subprocess.Popen([TRUE])  # subprocess uses vfork(2)
            process.wait()
            return process.pid
        pid = os.posix_spawn(TRUE, ["true"], {})
        os.waitpid(pid, 0)
        return pid

    child, events = observed(probes, action)
    assert [each.child for each in of(events, ForkEvent) if isinstance(each, ForkEvent)] == [child]
    assert start(events, child).argv[0] in ("true", str(TRUE))


def test_nothing_is_told_of_processes_outside(probes: Probes, tmp_path: Path) -> None:
    path = tmp_path / "outside"
    path.touch()

    def action() -> None:
        run(["true"])
        path.read_bytes()

    probes.events()
    with probes.running(policy(), flags=SessionFlag.EVERY) as session:
        inside(None, action)
        assert probes.events() == []
        inside(session, action)
        assert {event.cgroup for event in probes.events()} == {session.id}
