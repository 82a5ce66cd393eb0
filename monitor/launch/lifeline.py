# SPDX-License-Identifier: Apache-2.0
"""The launcher while CMD runs: passes signals on, prints notices, returns CMD's exit status.

CMD stays in the launcher's process group, so that a terminal's signals reach both: the kernel has
already given CMD its own, and only those that a process sent to the launcher alone are passed on
(si_code <= 0, sigaction(2)). When CMD stops, the launcher stops with it, and the shell that
started it takes the terminal back; its SIGCONT wakes both.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import os
import select
import time

from monitor.launch import kernel, protocol
from monitor.launch.child import STARTING
from monitor.launch.failure import REFUSED, say
from monitor.launch.protocol import ProtocolError

SIGNALLED = 128  # added to the number of the signal that ended CMD
# Sent by the kernel for what the process itself did: blocking them would change that.
FAULTS = {
    _signal.SIGSEGV,
    _signal.SIGBUS,
    _signal.SIGFPE,
    _signal.SIGILL,
    _signal.SIGTRAP,
    _signal.SIGSYS,
    _signal.SIGABRT,
}
# They end a launch that is still under way.
CANCELLING = {_signal.SIGINT, _signal.SIGQUIT, _signal.SIGHUP, _signal.SIGTERM}


def blocked_signals() -> "set[int]":
    """What the launcher takes from its signal descriptor instead of being interrupted."""
    return set(_signal.valid_signals()) - FAULTS - {_signal.SIGKILL, _signal.SIGSTOP}


class Lifeline:
    """Waits for one child: never for any other process that may become one."""

    def __init__(
        self, connection: _socket.socket, child: int, report: int, lease: "int | None" = None
    ) -> None:
        # The child's copy has a time-out of its own, which rests on the same flag.
        connection.settimeout(0)
        self.connection: _socket.socket | None = connection
        self.child = child
        os.set_blocking(report, False)
        self.report: int | None = report
        self.reported = b""
        self.refused: tuple[str, str] | None = None
        self.cancelled = 0
        self.signals = kernel.signal_descriptor(blocked_signals())
        self.status: int | None = None
        # Twice a lease may one be late.
        self.pause = None if lease is None else lease / 3
        self.renewed = time.monotonic()

    def is_launching(self) -> bool:
        """Whether CMD has not started, as far as the child has told by now."""
        self.take_report()
        return self.report is not None and self.reported != STARTING

    def run(self) -> int:
        """Until CMD has ended; the exit status."""
        while self.status is None:
            poll = select.poll()
            poll.register(self.signals, select.POLLIN)
            if self.report is not None:
                poll.register(self.report, select.POLLIN)
            elif self.connection is not None:
                # Before that, what comes is for the child.
                poll.register(self.connection.fileno(), select.POLLIN)
            for descriptor, _events in poll.poll(self.patience()):
                if descriptor == self.signals:
                    self.take_signals()
                elif descriptor == self.report:
                    self.take_report()
                else:
                    self.take_notices()
        self.take_report()
        self.take_notices()
        return self.outcome(self.status)

    def patience(self) -> "float | None":
        """Renew the lease where it is due; milliseconds until it is again, None: there is none."""
        if self.pause is None or self.connection is None or self.is_launching():
            return None if self.pause is None else self.pause * 1000
        now = time.monotonic()
        if now - self.renewed >= self.pause:
            self.renewed = now
            try:
                self.connection.send(protocol.encode(protocol.RENEW))
            except OSError:
                # The daemon is busy or gone: the lease runs on, and then out.
                return self.pause * 1000
        return max(0.0, self.renewed + self.pause - now) * 1000

    def outcome(self, status: int) -> int:
        """The exit status for a wait status."""
        failure = self.reported.removeprefix(STARTING)
        if failure:
            code, reason, hint = (failure.split(b"\0") + [b"", b""])[:3]
            say(os.fsdecode(reason), os.fsdecode(hint))
            return int(code)
        if self.cancelled:
            return SIGNALLED + self.cancelled
        if not self.reported:
            say(*(self.refused or ("the launch was ended before CMD started",)))
            return REFUSED
        if os.WIFSIGNALED(status):
            return SIGNALLED + os.WTERMSIG(status)
        return os.WEXITSTATUS(status)

    # -- what comes in -------------------------------------------------------------------------

    def take_report(self) -> None:
        """What the child reports; its end means that CMD runs, or that there is none."""
        while self.report is not None:
            try:
                data = os.read(self.report, 4096)
            except BlockingIOError:
                return
            if not data:
                self.end_report(self.report)
            self.reported += data

    def end_report(self, report: int) -> None:
        os.close(report)
        self.report = None
        if self.reported == STARTING:
            # They are CMD's now: who reads what it writes must see the end when CMD closes it.
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(null, 0)
            os.dup2(null, 1)
            os.close(null)

    def take_signals(self) -> None:
        try:
            data = os.read(self.signals, kernel.SIGNALFD_SIGINFO * 16)
        except BlockingIOError:
            return
        for at in range(0, len(data), kernel.SIGNALFD_SIGINFO):
            # ssi_signo, ssi_errno, ssi_code: 32 bits each.
            number = int.from_bytes(data[at : at + 4], "little")
            code = int.from_bytes(data[at + 8 : at + 12], "little", signed=True)
            if number == _signal.SIGCHLD:
                self.reap()
            elif number in CANCELLING and self.is_launching():
                self.cancelled = number
                self.kill(_signal.SIGKILL)
            elif code <= 0 or number == _signal.SIGHUP and os.getsid(0) == os.getpid():
                # The hang-up of a terminal comes to the session's leader alone.
                self.pass_on(number)

    def pass_on(self, number: int) -> None:
        if number == _signal.SIGCONT:
            self.resume()
        else:
            self.kill(number)

    def kill(self, number: int) -> None:
        """Signal the child; it is ours until it has been waited for, so the pid is its own."""
        if self.status is None:
            try:
                os.kill(self.child, number)
            except PermissionError:
                return  # it has become another user's

    def reap(self) -> None:
        if self.status is not None:
            return
        pid, status = os.waitpid(self.child, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return
        if os.WIFSTOPPED(status):
            self.stop()
        else:
            self.status = status

    def take_notices(self) -> None:
        """Print what the daemon says; without it the session goes on."""
        while self.connection is not None:
            try:
                data = self.connection.recv(protocol.MAXIMUM)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.connection.close()
                self.connection = None
                return
            try:
                message = protocol.decode(data)
                if message.kind == protocol.REFUSED:
                    # The child was ended before it could read it.
                    reason, hint = message.one("reason"), message.get("hint") or b""
                    self.refused = (os.fsdecode(reason), os.fsdecode(hint))
                elif self.reported == STARTING:
                    say(os.fsdecode(message.expect(protocol.NOTICE).one("text")))
            except ProtocolError:
                continue

    # -- job control ---------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop with CMD, where there is a shell that can wake both: one with a terminal."""
        terminal = open_terminal()
        if terminal is None:
            return
        os.close(terminal)
        if _signal.SIGCONT not in _signal.sigpending():
            os.kill(os.getpid(), _signal.SIGSTOP)
        if _signal.sigtimedwait((_signal.SIGCONT,), 0) is not None:
            self.resume()

    def resume(self) -> None:
        """Wake CMD, where what woke the launcher has not reached it too."""
        if self.rests():
            self.give_terminal()
            self.kill(_signal.SIGCONT)

    def rests(self) -> bool:
        """Whether CMD still is in the stop that we know of: a later one must not be undone."""
        if self.status is not None:
            return False
        with open(f"/proc/{self.child}/stat", "rb") as file:
            stopped = file.read().rpartition(b")")[2].split()[0] == b"T"
        # In this order: a later stop shows here before it can be seen there.
        flags = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        return stopped and os.waitid(os.P_PID, self.child, flags) is None

    def give_terminal(self) -> None:
        """A CMD with a process group of its own (a shell) gets the terminal that we were given."""
        terminal = open_terminal()
        if terminal is None:
            return
        try:
            group = os.getpgid(self.child)
            if group != os.getpgrp() == os.tcgetpgrp(terminal):
                os.tcsetpgrp(terminal, group)
        except OSError:
            return  # it has just ended, or the terminal hung up
        finally:
            os.close(terminal)


def open_terminal() -> int | None:
    """The controlling terminal, None where there is none."""
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
