# SPDX-License-Identifier: Apache-2.0
"""Between fork and exec: puts on what the daemon says, step by step, and becomes CMD.

Signals stay blocked until CMD starts, and every descriptor but the three standard ones closes with
the exec. A step that fails is reported through a pipe and ends the process: nothing goes on half
confined. The order matters: what needs privilege comes before it is dropped, and the filter that
takes system calls away comes last.
"""

import _signal  # type: ignore[import-not-found]
import errno
import os
import stat

from monitor.launch import kernel, protocol
from monitor.launch.channel import Channel
from monitor.launch.failure import NOT_EXECUTABLE, NOT_FOUND, REFUSED, LaunchError, say
from monitor.launch.protocol import Message, ProtocolError

# What the pipe to the parent carries: STARTING when CMD is about to be executed, and a failure as
# STATUS NUL REASON NUL HINT. The pipe's end without one after STARTING means that CMD runs.
STARTING = b"\x01"
STANDARD = ("standard input", "standard output", "standard error")
# execvp(3) searches these where there is no PATH.
DEFAULT_PATH = b"/bin:/usr/bin"
# Device numbers of pseudo-terminals (linux/major.h: UNIX98_PTY_SLAVE_MAJOR, eight of them).
PTY_MAJORS = range(136, 144)
NO_SUCH = (errno.ENOENT, errno.ENOTDIR)
# Paths of rules that lead nowhere for this user: nothing to grant.
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EACCES)


class Child:
    """One launch, seen from the process that becomes CMD."""

    def __init__(
        self,
        channel: Channel,
        session: Message,
        descriptors: list[int],
        command: list[str],
        parent: int,
    ) -> None:
        self.channel = channel
        self.session = session
        self.filter, self.layers = descriptors
        self.command = command
        self.parent = parent
        self.step = "begin"
        self.new_environment: dict[bytes, bytes] = {}

    def run(self, report: int, mask: "set[int]") -> None:
        """Become CMD with the signal mask `mask`. Never returns."""
        status = REFUSED
        try:
            try:
                self.confine()
                os.write(report, STARTING)
                self.execute(mask)
            except OSError as error:
                text = os.strerror(error.errno or 0)
                raise LaunchError(f"cannot {self.step}: {text}", self.advice(error)) from error
            except ProtocolError as error:
                raise LaunchError(f"cannot {self.step}: {error}") from error
        except LaunchError as error:
            status = error.status
            parts = (str(status), error.reason, error.hint)
            os.write(report, b"\0".join(os.fsencode(part) for part in parts)[:4096])
        except BaseException as error:  # noqa: BLE001 - whatever it is, CMD must not start
            reason = f"cannot {self.step}: {type(error).__name__}: {error}"
            os.write(report, os.fsencode(f"{status}\0{reason}\0")[:4096])
        finally:
            os._exit(status)

    def advice(self, error: OSError) -> str:
        """A hint where the person can do something about a step that failed."""
        if self.step == "unshare namespaces":
            return "this host forbids user namespaces: `rictl doctor` says what to change"
        if self.step == "install the system call filter" and error.errno == errno.EBUSY:
            return "it is started in a sandbox that holds system calls itself; only one can"
        return ""

    # -- the steps -----------------------------------------------------------------------------

    def confine(self) -> None:
        """Everything up to `go`."""
        self.follow_launcher()
        self.check_standard()
        self.new_environment = self.environment()
        self.step = "report to the daemon"
        self.channel.connection.settimeout(float(self.session.number("seconds")))
        self.channel.send(protocol.CHILD)
        self.take_view()
        self.step = "close descriptors"
        kernel.close_on_exec(len(STANDARD))
        self.limit()
        self.drop()
        self.follow_launcher()  # a change of identity makes the kernel forget it
        self.step = "give up new privileges"
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        counts = self.restrict()
        self.step = "install the system call filter"
        listen = self.session.get("listen") is not None
        listener = kernel.install_filter(_content(self.filter), listen=listen)
        self.step = "report to the daemon"
        self.channel.send(
            protocol.CONFINED,
            *((name, str(count).encode()) for name, count in counts.items()),
            descriptors=[listener] if listen else [],
        )
        self.channel.receive(protocol.GO)
        # From here the daemon ends the session in its own order when the launcher dies: its
        # sockets are cut before its processes are killed.
        self.step = "leave the end to the daemon"
        kernel.prctl(kernel.PR_SET_PDEATHSIG, 0)

    def follow_launcher(self) -> None:
        """Be killed when the launcher is."""
        self.step = "follow the launcher's end"
        kernel.prctl(kernel.PR_SET_PDEATHSIG, _signal.SIGKILL)
        if os.getppid() != self.parent:
            raise LaunchError("the launcher is gone")

    def check_standard(self) -> None:
        """A directory among them would be a way around the view and the rules on files."""
        self.step = "look at the standard descriptors"
        for number, name in enumerate(STANDARD):
            if stat.S_ISDIR(os.fstat(number).st_mode):
                raise LaunchError(f"{name} is a directory", "redirect it to a file or /dev/null")

    def take_view(self) -> None:
        """A mount namespace of its own, in which the daemon makes the mounts."""
        view = self.session.one("view")
        if view == protocol.VIEW_NONE:
            return
        folder = os.getcwdb()
        self.step = "unshare namespaces"
        user = kernel.CLONE_NEWUSER if view == protocol.VIEW_USER else 0
        kernel.unshare(kernel.CLONE_NEWNS | user)
        self.step = "take the view"
        self.channel.send(protocol.UNSHARED)
        self.channel.receive(protocol.VIEWED)
        # The working directory still is the one beneath the new mounts.
        self.step = f"enter the working directory {os.fsdecode(folder)}"
        os.chdir(folder)

    def environment(self) -> dict[bytes, bytes]:
        """CMD's environment: the names that the daemon lets through, then what it sets."""
        self.step = "make the environment"
        kept = set(self.session.all("keep"))
        made = {name: value for name, value in os.environb.items() if name in kept}
        for pair in self.session.all("set"):
            name, _, value = pair.partition(b"=")
            made[name] = value
        return made

    def limit(self) -> None:
        self.step = "limit open files"
        if self.session.get("files") is not None:
            kernel.limit_files(self.session.number("files"))

    def drop(self) -> None:
        """Every capability, and root's identity where the launcher was started with it."""
        started_by_root = self.session.get("uid") is not None
        privileged = started_by_root or self.session.one("view") == protocol.VIEW_USER
        if privileged:
            self.step = "drop the capability bounding set"
            kernel.drop_bounding_set()
            self.step = "lock the secure bits"
            kernel.lock_securebits()
        if started_by_root:
            uid, gid = self.session.number("uid"), self.session.number("gid")
            groups = [protocol.number(each, "group") for each in self.session.all("group")]
            self.step = f"become user {uid}"
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        self.step = "drop capabilities"
        kernel.drop_capabilities()

    def restrict(self) -> dict[str, int]:
        """Every Landlock layer, outermost first; how many layers, rules, and absent paths."""
        self.step = "read the rules on files"
        document = protocol.decode(_content(self.layers), maximum=None).expect(protocol.LAYERS)
        counts = {"layers": 0, "rules": 0, "absent": 0}
        ruleset = -1
        for name, value in document.fields:
            if name == "layer":
                self.apply(ruleset)
                self.step = "make a Landlock ruleset"
                files, scopes = value.split(b" ")
                ruleset = kernel.landlock_ruleset(int(files), int(scopes))
                counts["layers"] += 1
                continue
            if name == "terminal":
                counts["rules"] += self.allow_terminal(ruleset, int(value))
                continue
            rights, path = value.split(b" ", 1)
            found = self.allow(ruleset, path, int(rights), tree=name == "tree")
            counts["rules" if found else "absent"] += 1
        self.apply(ruleset)
        return counts

    def apply(self, ruleset: int) -> None:
        if ruleset >= 0:
            self.step = "apply a Landlock ruleset"
            kernel.landlock_restrict(ruleset)
            os.close(ruleset)

    def allow(self, ruleset: int, path: bytes, rights: int, tree: bool) -> bool:
        """Add a rule; False where there is no such path for this user."""
        name = os.fsdecode(path)
        self.step = f"allow {name}"
        try:
            descriptor = kernel.open_path(path)
        except OSError as error:
            if error.errno == errno.ELOOP:
                # Followed, it would grant whatever its owner, or an earlier session, made it name.
                say(
                    f"the rule on {name} is left out: a part of it is a symbolic link that others"
                    " than root can change",
                    "write what it stands for",
                )
                return False
            if error.errno in ABSENT:
                return False
            raise
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= kernel.LANDLOCK_FILE_RIGHTS
        elif not tree:
            raise LaunchError(f"{name} is a directory", f"write {name}/** in the profile")
        if rights:
            kernel.landlock_allow(ruleset, descriptor, rights)
        os.close(descriptor)
        return True

    def allow_terminal(self, ruleset: int, rights: int) -> int:
        """Add a rule for the controlling terminal, where a standard descriptor is it; how many."""
        self.step = "allow the controlling terminal"
        rights &= kernel.LANDLOCK_FILE_RIGHTS
        for descriptor in range(len(STANDARD)) if rights else ():
            if _is_own_terminal(descriptor):
                kernel.landlock_allow(ruleset, descriptor, rights)
                return 1
        return 0

    # -- CMD -----------------------------------------------------------------------------------

    def execute(self, mask: "set[int]") -> None:
        """Replace this process by CMD, as execvp(3) would with its new PATH."""
        self.step = "restore signals"
        # Python ignores these; what it handles itself falls back to the default with the exec.
        for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
            _signal.signal(number, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        name = os.fsencode(self.command[0])
        arguments = [os.fsencode(each) for each in self.command]
        # Files in a folder that may not be searched are as good as not there, unlike for execvp(3):
        # PATH of a confined user often has such folders.
        refused: OSError | None = None
        missing: OSError | None = None
        for path in self.candidates(name):
            try:
                _execute(path, arguments, self.new_environment)
            except OSError as error:
                if error.errno in NO_SUCH or not os.path.exists(path):
                    missing = error
                elif error.errno == errno.EACCES:
                    refused = refused or error
                else:
                    refused = error
                    break
        shown = self.command[0]
        if refused is not None:
            text = os.strerror(refused.errno or 0)
            raise LaunchError(f"{shown}: {text}", self.execution_hint(refused), NOT_EXECUTABLE)
        text = os.strerror(missing.errno or 0) if missing and b"/" in name else "command not found"
        raise LaunchError(f"{shown}: {text}", "", NOT_FOUND)

    def candidates(self, name: bytes) -> list[bytes]:
        """Where `name` may be, in order; an empty entry of PATH is the working directory."""
        if not name:
            return []
        if b"/" in name:
            return [name]
        path = self.new_environment.get(b"PATH", DEFAULT_PATH)
        return [folder + b"/" + name if folder else name for folder in path.split(b":")]

    def execution_hint(self, error: OSError) -> str:
        if error.errno != errno.EACCES:
            return ""
        session = os.fsdecode(self.session.one("id"))
        return f"files.execute of the profile decides on it: rictl log --session {session}"


def _execute(path: bytes, arguments: list[bytes], environment: dict[bytes, bytes]) -> None:
    """execve(2); a file without a known header is given to the shell, as execvp(3) does."""
    try:
        os.execve(path, arguments, environment)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        os.execve(b"/bin/sh", [b"/bin/sh", path, *arguments[1:]], environment)


def _is_own_terminal(descriptor: int) -> bool:
    """Whether it is the pseudo-terminal that is this process's controlling terminal."""
    facts = os.fstat(descriptor)
    if not stat.S_ISCHR(facts.st_mode) or os.major(facts.st_rdev) not in PTY_MAJORS:
        return False
    try:
        os.tcgetpgrp(descriptor)
    except OSError:  # ENOTTY: another terminal, or none
        return False
    return True


def _content(descriptor: int) -> bytes:
    """All of a sealed memfd; its position is shared with others, so it is left alone."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
