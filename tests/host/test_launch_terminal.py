# SPDX-License-Identifier: Apache-2.0
"""ri-exec in a terminal: Ctrl-C, Ctrl-Z and fg, resizing, shells, and signals sent by hand."""

from __future__ import annotations

import os
import pty
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, wait_until
from tests.support.terminal import Terminal, state_of

PROFILE = """
include: [base]
files:
  read: ["{home}/**", /proc/**, /dev/ptmx, /dev/pts/**]
  write: ["{home}/**", /dev/null, /dev/tty, /dev/ptmx, /dev/pts/**]
environment: {keep: [PATH, HOME, LANG, TERM, PS1]}
"""
PROMPT = "outer> "
INNER = "inner> "


@pytest.fixture(scope="module")
def profile(daemon: Daemon) -> str:
    return daemon.profile("terminal", PROFILE)


@pytest.fixture
def shell(daemon: Daemon, profile: str) -> Iterator[Terminal]:
    """An interactive shell outside any session, as the person has it."""
    environment = daemon.environment(daemon.user) | {"PS1": PROMPT, "TERM": "dumb"}
    bash = ["/bin/bash", "--norc", "--noprofile", "--noediting", "-i"]
    made = Terminal(bash, daemon.user, environment)
    try:
        made.wait_for(PROMPT)
        yield made
    finally:
        made.close()
        daemon.settled()


@pytest.fixture
def launch(daemon: Daemon, profile: str) -> Callable[..., str]:
    """The command line that runs a command in a session."""

    def line(*argv: str) -> str:
        return shlex.join(daemon.exec_command(profile, argv))

    return line


def inner_shell(shell: Terminal, launch: Callable[..., str]) -> None:
    """Start an interactive shell in a session."""
    script = f"PS1='{INNER}' exec bash --norc --noprofile --noediting -i"
    shell.type(launch("/bin/sh", "-c", script) + "\n")
    shell.wait_for(INNER)


def test_ctrl_c_ends_the_command_once(shell: Terminal, launch: Callable[..., str]) -> None:
    script = (
        "n=0; trap 'n=$((n+1))' INT; echo started;"
        " while [ $n = 0 ]; do sleep 0.05; done; sleep 0.3; echo caught $n times"
    )
    shell.type(launch("/bin/bash", "-c", script) + "\n")
    shell.wait_for("\nstarted")
    shell.type("\x03")
    # The terminal gave it to CMD; the launcher must not send another.
    shell.wait_for("caught 1 times")
    shell.wait_for(PROMPT)


def test_ctrl_c_tells_the_shell_how_it_ended(shell: Terminal, launch: Callable[..., str]) -> None:
    shell.type(launch("/bin/sh", "-c", "echo started; exec sleep 60") + "\n")
    shell.wait_for("\nstarted")
    shell.type("\x03")
    shell.wait_for(PROMPT)
    shell.type("echo status $?\n")
    shell.wait_for("\nstatus 130")


def test_ctrl_z_and_fg(shell: Terminal, launch: Callable[..., str]) -> None:
    script = "echo started; while read line; do echo got $line; done; echo done"
    shell.type(launch("/bin/sh", "-c", script) + "\n")
    shell.wait_for("\nstarted")
    shell.type("one\n")
    shell.wait_for("got one")
    for word in ("two", "three"):
        shell.type("\x1a")
        shell.wait_for("Stopped")
        shell.wait_for(PROMPT)
        shell.type("jobs\n")
        shell.wait_for("Stopped")
        shell.type("fg\n")
        shell.wait_for("ri_exec.py")
        shell.type(f"{word}\n")
        shell.wait_for(f"got {word}")
    shell.type("\x04")
    shell.wait_for("done")
    shell.wait_for(PROMPT)


def test_bg_lets_it_run_on(shell: Terminal, launch: Callable[..., str]) -> None:
    shell.type(launch("/bin/sh", "-c", "echo started; sleep 1; echo fin''ished") + "\n")
    shell.wait_for("\nstarted")
    # A shell that is just starting a program (vfork) cannot stop, with or without ri-exec.
    time.sleep(0.4)
    shell.type("\x1a")
    shell.wait_for("Stopped")
    shell.type("bg\n")
    shell.wait_for("finished\r\n")
    shell.type("wait; echo status $?\n")
    shell.wait_for("\nstatus 0")


def test_a_job_that_is_killed_by_the_shell(shell: Terminal, launch: Callable[..., str]) -> None:
    shell.type(launch("/bin/sleep", "60") + " &\n")
    shell.wait_for(PROMPT)
    time.sleep(0.5)
    shell.type("kill %1; wait %1; echo status $?\n")
    shell.wait_for("\nstatus 143")


def test_the_window_changes(shell: Terminal, launch: Callable[..., str]) -> None:
    script = (
        "import os, signal\n"
        "def show(*_): os.write(1, b'%d %d\\n' % os.get_terminal_size())\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL); signal.signal(signal.SIGWINCH, show)\n"
        "show()\n"
        "while True: signal.pause()"
    )
    shell.type(launch("/usr/bin/python3", "-c", script) + "\n")
    shell.wait_for("80 24")
    shell.resize(40, 132)
    shell.wait_for("132 40")
    shell.type("\x03")
    shell.wait_for(PROMPT)


def test_the_terminal_goes_on_under_its_other_names(
    shell: Terminal, launch: Callable[..., str]
) -> None:
    """It has no name in /dev/pts of the view; programs open their descriptors once more."""
    script = (
        "for to in stdout stderr tty fd/0; do echo to $to > /dev/$to || echo not $to; done;"
        " ls /dev/pts; read line < /dev/stdin; echo got $line; read line < /dev/tty;"
        " echo then $line; script -qec 'tty; echo in''ner' /dev/null"
    )
    shell.type(launch("/bin/bash", "-c", script) + "\n")
    for name in ("stdout", "stderr", "tty", "fd/0"):
        shell.wait_for(f"\nto {name}")
    assert "not" not in shell.wait_for("\nptmx")
    shell.type("one\n")
    shell.wait_for("\ngot one")
    shell.type("two\n")
    shell.wait_for("\nthen two")
    shell.wait_for("/dev/pts/0")
    shell.wait_for("\ninner")
    shell.wait_for(PROMPT)


def test_another_terminal_s_descriptor_is_not_opened_again(
    shell: Terminal, daemon: Daemon, launch: Callable[..., str]
) -> None:
    """A descriptor of another terminal that somebody hands over gives what it was opened for."""
    master, slave = pty.openpty()
    try:
        os.fchown(slave, daemon.user.uid, -1)
        name = os.ttyname(slave)
        script = "echo to it >&2; exec 3<> /dev/stderr && echo op''ened || echo ref''used"
        shell.type(f"/bin/bash -c {shlex.quote(script)} 2> {name}\n")
        shell.wait_for("opened")
        shell.type(launch("/bin/bash", "-c", script) + f" 2> {name}\n")
        shell.wait_for("refused")
        assert os.read(master, 100).startswith(b"to it\r\n")
    finally:
        os.close(master)
        os.close(slave)


def test_a_shell_in_the_session_has_job_control(
    shell: Terminal, launch: Callable[..., str]
) -> None:
    inner_shell(shell, launch)
    # Ctrl-C ends the shell's foreground program, and neither the shell nor the launcher.
    shell.type("sleep 60\n")
    time.sleep(0.5)
    shell.type("\x03")
    shell.type("echo status $?\n")
    shell.wait_for("status 130")
    shell.wait_for(INNER)
    shell.type("cat\n")
    shell.type("typed\n")
    shell.wait_for("typed\r\ntyped")
    shell.type("\x1a")
    shell.wait_for("Stopped")
    shell.wait_for(INNER)
    shell.type("fg\n")
    shell.wait_for("\ncat")
    shell.type("again\n")
    shell.wait_for("again\r\nagain")
    shell.type("\x04")
    shell.wait_for(INNER)
    shell.type("exit 5\n")
    shell.wait_for(PROMPT)
    shell.type("echo status $?\n")
    shell.wait_for("\nstatus 5")


def test_a_shell_that_suspends_itself(shell: Terminal, launch: Callable[..., str]) -> None:
    """It has a process group of its own, so the launcher gives the terminal back to it."""
    inner_shell(shell, launch)
    shell.type("suspend\n")
    shell.wait_for("Stopped")
    shell.wait_for(PROMPT)
    shell.type("fg\n")
    shell.wait_for("ri_exec.py")
    shell.type("echo back $((1+1))\n")
    shell.wait_for("back 2")
    shell.type("exit\n")
    shell.wait_for(PROMPT)


def test_the_terminal_hangs_up(daemon: Daemon, profile: str, launch: Callable[..., str]) -> None:
    """The launcher leads the terminal's session, as `ssh -t HOST ri-exec …` has it."""
    command = daemon.exec_command(profile, ["/bin/sh", "-c", "echo started; exec sleep 60"])
    terminal = Terminal(command, daemon.user, daemon.environment(daemon.user))
    terminal.wait_for("started")
    (session,) = daemon.sessions()
    status = terminal.close()
    assert os.waitstatus_to_exitcode(status) in (129, -signal.SIGHUP)
    wait_until(lambda: not Path(f"/proc/{session['pid']}").exists())
    daemon.settled()


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_in_tmux(daemon: Daemon, profile: str) -> None:
    """A pane runs ri-exec; the pane is resized and typed into."""
    server = f"{daemon.user.home}/tmux.sock"

    def tmux(*arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", server, "-f", "/dev/null", *arguments],
            env=daemon.environment(daemon.user),
            user=daemon.user.uid,
            group=daemon.user.gid,
            extra_groups=[],
            cwd=daemon.user.home,
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    command = daemon.exec_command(
        profile, ["/bin/bash", "--norc", "--noprofile", "--noediting", "-i"]
    )
    tmux("new-session", "-d", "-s", "s", "-x", "80", "-y", "24", shlex.join(command))
    try:
        tmux("send-keys", "-t", "s", "stty size; sleep 60", "Enter")
        wait_until(lambda: "24 80" in tmux("capture-pane", "-p", "-t", "s"))
        tmux("send-keys", "-t", "s", "C-c", "")
        tmux("resize-window", "-t", "s", "-x", "100", "-y", "30")
        tmux("send-keys", "-t", "s", "stty size", "Enter")
        wait_until(lambda: "30 100" in tmux("capture-pane", "-p", "-t", "s"))
    finally:
        tmux("kill-server")
    daemon.settled()


@pytest.mark.skipif(shutil.which("vim") is None, reason="vim is not installed")
def test_an_editor(daemon: Daemon, shell: Terminal, launch: Callable[..., str]) -> None:
    file = daemon.user.home / "edited"
    shell.type(launch("/usr/bin/vim", "-u", "NONE", "-i", "NONE", str(file)) + "\n")
    shell.wait_for("[New")
    shell.type("iwritten in a session")
    shell.type("\x1b")
    time.sleep(1.2)  # vim waits to tell Escape from the start of a key's sequence
    shell.type("\x1a")
    shell.wait_for("Stopped")
    shell.type("fg\n")
    shell.wait_for("ri_exec.py")
    shell.type(":wq\n")
    shell.wait_for(PROMPT)
    wait_until(file.exists)
    assert file.read_text() == "written in a session\n"


# -- without a terminal ------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_sent_to_the_launcher_reach_the_command(
    daemon: Daemon, profile: str, number: signal.Signals
) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo got it; exit 9' {name}; echo started; while :; do sleep 0.05; done"
    process = daemon.spawn(profile, ["/bin/bash", "-c", script])
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(number)
    output, _errors = process.communicate(timeout=10)
    assert (process.returncode, output) == (9, "got it\n")


def test_signals_that_were_ignored_stay_so(daemon: Daemon, profile: str) -> None:
    def ignore() -> None:
        # A shell without job control starts what it puts into the background with this ignored.
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    done = daemon.exec(profile, ["/bin/cat", "/proc/self/status"], preexec_fn=ignore)
    # Without glibc's own, 32, which make(1) leaves ignored.
    ignored = int(done.stdout.split("SigIgn:")[1].split()[0], 16) & 0x7FFFFFFF
    assert ignored == 1 << signal.SIGINT - 1 | 1 << signal.SIGHUP - 1


def test_the_launcher_stops_and_goes_on_without_a_terminal(daemon: Daemon, profile: str) -> None:
    """Nobody there could wake it: only the command stops."""
    process = daemon.spawn(
        profile, ["/bin/sh", "-c", "echo started; sleep 3"], start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    session = daemon.launched(process)
    os.kill(session["pid"], signal.SIGSTOP)
    wait_until(lambda: state_of(session["pid"]) == "T")
    time.sleep(0.2)
    assert state_of(process.pid) in "SR"
    process.send_signal(signal.SIGCONT)
    assert process.wait(10) == 0
    process.communicate()


def test_a_process_that_is_given_to_the_launcher_is_not_waited_for(
    daemon: Daemon, profile: str
) -> None:
    """The first process of a container gets orphans: only CMD's own end counts."""
    script = "echo started; (exec sleep 0.2) & exec sleep 1"
    process = daemon.spawn(
        profile,
        ["/bin/sh", "-c", script],
        # PR_SET_CHILD_SUBREAPER makes the launcher what init is.
        preexec_fn=lambda: __import__("ctypes").CDLL(None).prctl(36, 1, 0, 0, 0),
    )
    began = time.monotonic()
    assert process.wait(10) == 0
    assert time.monotonic() - began > 0.9
    process.communicate()
