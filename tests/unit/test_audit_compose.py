# SPDX-License-Identifier: Apache-2.0
"""From events to drafts, with a decision of the test's own in place of the profile's."""

from __future__ import annotations

import errno
import os
import posixpath
import re
import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor.audit import canonical, objects, subject
from monitor.audit.compose import Composer
from monitor.audit.record import Draft, printable
from monitor.daemon.probes.attachments import CALL_EXITS
from monitor.policy import syscalls
from monitor.policy.action import (
    Action,
    Decision,
    ExecAction,
    FileAction,
    Mechanism,
    NetAction,
    Origin,
    SocketAction,
    SyscallAction,
    UnixAction,
    Verb,
    Verdict,
)
from monitor.policy.compile import Context, compile_plan
from monitor.policy.decide import decide
from monitor.policy.floor import syscall_plan
from monitor.policy.plan import (
    FileAccess,
    FileRule,
    HostFeatures,
    MaskKind,
    MaskRule,
    Plan,
    ViewPlan,
)
from monitor.profile.catalog import Catalog
from monitor.profile.resolve import resolve
from monitor.session.session import Session
from monitor.wire.events import (
    AnyEvent,
    DenyCause,
    ExecEvent,
    ExitEvent,
    FileEvent,
    FileOperation,
    ForkEvent,
    NetEvent,
    NetOperation,
    SyscallEvent,
)
from tests.support.audit import AGENT, RULE, names, plan, policy, session
from tests.support.checkout import ROOT

NOW = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
BASE: dict[str, Any] = {
    "time": NOW,
    "cgroup": 77,
    "pid": 100,
    "tid": 100,
    "comm": "cat",
    "count": 1,
}
ALLOWED = Decision(Verdict.ALLOW, "files.read lists it", Mechanism.LANDLOCK, 0, RULE)
DENIED = Decision(
    Verdict.DENY, "the profile does not list it", Mechanism.LANDLOCK, 0, None, "list it"
)

# Tracepoints that are not named as their call is.
CALLS = {"umount": "umount2"}
REFUSED_CALLS = {CALLS.get(name, name) for name in CALL_EXITS["ri_refused_call_exit"].split()}

Decide = Callable[[Plan, Action], Decision]


class Case:
    """A composer over one session in cgroup 77, and the actions it asked to be decided."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Action] = []
        self.answer: Decision | Callable[[Action], Decision] = ALLOWED
        self.session: Session | None = session()
        monkeypatch.setattr("monitor.policy.decide.decide", self._decide)
        self.composer = Composer(lambda cgroup: self.session if cgroup == 77 else None)

    def _decide(self, _plan: Plan, action: Action) -> Decision:
        self.asked.append(action)
        return self.answer if isinstance(self.answer, Decision) else self.answer(action)

    def observed(self) -> None:
        self.session = session(plan=plan(observe=True))

    def draft(self, event: AnyEvent) -> Draft:
        draft = self.composer.compose(event)
        assert draft is not None
        return draft


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(monkeypatch)


def opened(path: str = "/usr/lib/os-release", **more: Any) -> FileEvent:
    values: dict[str, Any] = {
        "operation": FileOperation.OPEN, "path": path, "target": "", "claimed": False,
        "write": False, "created": False, "device": 8 << 20 | 1, "inode": 55, "errno": 0,
    }  # fmt: skip
    return FileEvent(**(BASE | values | more))


def refused(path: str, number: int = errno.EACCES, **more: Any) -> FileEvent:
    return opened(path, **({"errno": number, "claimed": True, "device": 0, "inode": 0} | more))


def net(**more: Any) -> NetEvent:
    values: dict[str, Any] = {
        "operation": NetOperation.CONNECT, "family": 2, "type": 1, "protocol": 6,
        "address": "192.0.2.1", "port": 443, "cause": DenyCause.NONE, "observed": False,
        "policy": 5, "rule": 0,
    }  # fmt: skip
    return NetEvent(**(BASE | values | more))


def call(name: str, *arguments: int, number: int = errno.EPERM, **more: Any) -> SyscallEvent:
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    return SyscallEvent(
        **(BASE | more), number=syscalls.NUMBERS[name], arguments=padded, errno=number
    )


# -- what all have in common -----------------------------------------------------------------------


def test_a_record_has_its_session_its_chain_and_the_time(case: Case) -> None:
    draft = case.draft(opened(count=7))
    assert (draft.session, draft.agent) == (session().id, AGENT)
    assert draft.chain == ("user:alice", AGENT)
    assert (draft.pid, draft.count) == (100, 7)
    happened = time.time() - (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - NOW) / 1e9
    assert draft.time == pytest.approx(happened, abs=1)
    assert case.draft(opened(time=NOW - 5 * 10**9)).time == pytest.approx(draft.time - 5, abs=0.01)


@pytest.mark.parametrize(
    ("event", "verdict"),
    [
        (opened(cgroup=5), Verdict.ALLOW),
        (refused("/etc/shadow", cgroup=5), Verdict.DENY),
        (net(cgroup=5, cause=DenyCause.DENY_ALL), Verdict.DENY),
        (net(cgroup=5), Verdict.ALLOW),
        (net(cgroup=5, operation=NetOperation.LISTEN), Verdict.ALLOW),
        (call("bpf", cgroup=5), Verdict.DENY),
        (ForkEvent(**(BASE | {"cgroup": 5}), child=3), Verdict.ALLOW),
        (ExitEvent(**(BASE | {"cgroup": 5}), status=0), Verdict.ALLOW),
    ],
)
def test_an_unknown_cgroup_is_recorded_as_such(
    case: Case, event: AnyEvent, verdict: Verdict
) -> None:
    draft = case.draft(event)
    assert (draft.session, draft.agent, draft.chain) == ("", "", ())
    assert draft.verdict is verdict
    assert "no session is known for cgroup 5" in draft.reason
    assert case.asked == []


def test_events_behind_the_end_of_a_session_are_still_its_own(case: Case) -> None:
    case.draft(opened())
    case.session = None
    assert case.draft(opened()).session == session().id


def test_a_session_that_appears_later_takes_over(case: Case) -> None:
    case.session = None
    assert case.draft(opened()).session == ""
    case.session = session()
    assert case.draft(opened()).session == session().id


# -- files -----------------------------------------------------------------------------------------


def test_an_open_that_a_rule_allowed(case: Case) -> None:
    draft = case.draft(opened())
    assert (draft.verb, draft.object) == (Verb.FILE_OPEN, "/usr/lib/os-release")
    assert (draft.verdict, draft.reason) == (Verdict.ALLOW, ALLOWED.reason)
    assert draft.rule == "files.read: /usr/** (coder.yaml:7)"
    assert draft.mechanism is Mechanism.LANDLOCK
    assert draft.details == {"device": "8:1", "inode": 55}
    # Any name of the folder would do, since no rule means this one.
    assert case.asked == [FileAction(Verb.FILE_OPEN, "/usr/lib/\0")]


def test_files_of_one_folder_are_decided_once(case: Case) -> None:
    for number in range(10):
        case.draft(opened(f"/usr/lib/{number}"))
    assert len(case.asked) == 1


@pytest.mark.parametrize("name", ["coding-agent", "base", "research-agent"])
@settings(deadline=None)
@given(data=st.data())
def test_opens_are_decided_as_the_reference_does(name: str, data: st.DataObject) -> None:
    governed = shipped(name)
    rules = [rule.path for rule in governed.policies[0].files]
    masks = [
        mask.pattern.replace("**", "x/y").replace("*", "z") for mask in governed.policies[0].masks
    ]
    base = data.draw(st.sampled_from([*rules, *masks, "/", "/home/alice", "/srv"]))
    part = st.sampled_from(
        [".env", ".git", "hooks", "config", "x", ".vscode", "tasks.json", "a.py"]
    )
    path = posixpath.join(base, *data.draw(st.lists(part, max_size=3)))
    verb = data.draw(st.sampled_from([Verb.FILE_OPEN, Verb.FILE_WRITE]))
    one = subject.Subject(1, session(plan=governed), str)
    assert subject.on_open(one, verb, path) == decide(governed, FileAction(verb, path))


@cache
def shipped(name: str) -> Plan:
    catalog = Catalog([ROOT / "profiles"])
    profiles = resolve(catalog.load(name), catalog.load)
    context = Context("/home/alice/project", "/home/alice", "s", 1000, None, False, str)
    return compile_plan(profiles, context, HostFeatures(7, unix_hooks=True, view=True))


def test_a_decision_is_asked_for_once(case: Case) -> None:
    for _again in range(3):
        case.draft(opened())
        case.draft(opened(write=True))
    assert len(case.asked) == 2


@pytest.mark.parametrize(
    "how", [{"write": True}, {"created": True}, {"write": True, "created": True}]
)
def test_an_open_that_changes_is_a_write(case: Case, how: dict[str, Any]) -> None:
    draft = case.draft(opened(**how))
    assert draft.verb is Verb.FILE_WRITE
    assert draft.details.get("created", False) is how.get("created", False)


@pytest.mark.parametrize(
    ("operation", "target", "verb", "text"),
    [
        (FileOperation.UNLINK, "", Verb.FILE_UNLINK, "/a"),
        (FileOperation.RENAME, "/b", Verb.FILE_RENAME, "/a -> /b"),
        (FileOperation.LINK, "/b", Verb.FILE_LINK, "/a -> /b"),
        (FileOperation.LINK, "", Verb.FILE_LINK, "/a"),
        (FileOperation.MKDIR, "", Verb.FILE_MKDIR, "/a"),
        (FileOperation.CHMOD, "", Verb.FILE_CHMOD, "/a"),
        (FileOperation.TRUNCATE, "", Verb.FILE_TRUNCATE, "/a"),
    ],
)
@pytest.mark.parametrize("number", [0, errno.EACCES])
def test_other_file_calls(
    case: Case, operation: FileOperation, target: str, verb: Verb, text: str, number: int
) -> None:
    case.answer = DENIED if number else ALLOWED
    event = opened("/a", operation=operation, target=target, claimed=True, errno=number)
    draft = case.draft(event)
    assert (draft.verb, draft.object) == (verb, text)
    assert draft.verdict is (Verdict.DENY if number else Verdict.ALLOW)
    assert draft.details["claimed"] is True
    assert case.asked == [FileAction(verb, "/a", target or None)]


def test_a_refusal_names_what_would_refuse_it_and_what_helps(case: Case) -> None:
    case.answer = DENIED
    draft = case.draft(refused("/etc/shadow", tid=101))
    assert (draft.verdict, draft.mechanism) == (Verdict.DENY, Mechanism.LANDLOCK)
    assert (draft.reason, draft.rule) == (DENIED.reason, "")
    assert draft.details == {
        "errno": "EACCES", "claimed": True, "link": 0, "remedy": "list it", "comm": "cat",
        "tid": 101,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EACCES, "the host's own permissions refused it (EACCES)"),
        (errno.EPERM, "the host's own permissions refused it (EPERM)"),
        (errno.EROFS, "the host's file system is read-only there (EROFS)"),
        (errno.EXDEV, "the two names lie on different file systems (EXDEV)"),
        (errno.EBUSY, "the host has the name in use (EBUSY)"),
    ],
)
def test_a_refusal_that_the_profile_would_allow_is_the_hosts(
    case: Case, number: int, reason: str
) -> None:
    draft = case.draft(refused("/usr/x", number))
    assert (draft.verdict, draft.mechanism) == (Verdict.DENY, Mechanism.HOST)
    assert (draft.reason, draft.rule) == (reason, "")


@pytest.mark.parametrize(
    ("path", "mechanism"),
    [
        ("/home/alice/project/sub", Mechanism.VIEW),
        ("/home/alice/project/sub/..//sub/deep", Mechanism.VIEW),
        ("/home/alice", Mechanism.VIEW),
        ("/srv", Mechanism.HOST),
    ],
)
def test_a_folder_that_a_mask_holds_in_place(case: Case, path: str, mechanism: Mechanism) -> None:
    rule = Origin("coder", "files.deny", "{workspace}/**/*.pem", "coder.yaml", 9)
    mask = MaskRule("/home/alice/project/**/*.pem", MaskKind.HIDE, rule)
    masked = plan(policies=(policy(masks=(mask,)),), view=ViewPlan(True, True, True, True, ()))
    case.session = session(plan=masked)
    event = refused(path, errno.EBUSY, operation=FileOperation.RENAME, target="/srv/x")
    draft = case.draft(event)
    assert draft.mechanism is mechanism
    assert draft.rule == (str(rule) if mechanism is Mechanism.VIEW else "")
    case.session = session(id="another", plan=plan(policies=masked.policies))
    assert case.draft(event).mechanism is Mechanism.HOST


def test_an_open_for_ioctl_alone_is_the_floors(case: Case) -> None:
    def answer(action: Action) -> Decision:
        return DENIED if isinstance(action, FileAction) else decide(plan(syscalls=floor), action)

    floor = syscall_plan((), listen=False, strict=False, opened=set())
    case.answer = answer
    event = refused("/usr/x", errno.EPERM, write=True, ioctl_only=True)
    for _ in range(2):
        draft = case.draft(event)
        assert (draft.verdict, draft.mechanism) == (Verdict.DENY, Mechanism.SECCOMP)
        assert "access mode 3" in draft.reason
        case.observed()
    # Landlock's is EACCES: by openat2, whose flags the filter cannot see.
    case.session = session()
    assert case.draft(replace(event, errno=errno.EACCES)).mechanism is Mechanism.LANDLOCK


NARROW = policy(
    files=(
        FileRule("/w", True, FileAccess.WRITE, Origin("coder", "files.write", "/w/**", "c", 1)),
        FileRule("/x", True, FileAccess.WRITE, Origin("coder", "files.write", "/x/**", "c", 2)),
    )
)
REST = ViewPlan(True, True, True, True, ())


@pytest.mark.parametrize(
    ("number", "operation", "names", "mechanism"),
    [
        (errno.EROFS, FileOperation.UNLINK, ("/usr/x", ""), Mechanism.VIEW),
        (errno.EROFS, FileOperation.CHMOD, ("/usr/x", ""), Mechanism.VIEW),
        # A device is opened on a read-only mount, and refused by Landlock.
        (errno.EACCES, FileOperation.TRUNCATE, ("/dev/x", ""), Mechanism.LANDLOCK),
        # Somebody else's file, on a mount that is not read-only.
        (errno.EPERM, FileOperation.CHMOD, ("/proc/1/x", ""), Mechanism.HOST),
        (errno.EPERM, FileOperation.CHMOD, ("/w/x", ""), Mechanism.HOST),
        (errno.EROFS, FileOperation.CHMOD, ("/w/x", ""), Mechanism.HOST),
        # Trees that rules list apart are mounts apart.
        (errno.EXDEV, FileOperation.RENAME, ("/w/a", "/x/b"), Mechanism.VIEW),
        (errno.EXDEV, FileOperation.RENAME, ("/w/a", "/w/b"), Mechanism.HOST),
    ],
)
def test_who_refused_where_the_rest_is_read_only(
    case: Case, number: int, operation: FileOperation, names: tuple[str, str], mechanism: Mechanism
) -> None:
    case.answer = partial(decide, plan(policies=(NARROW,), view=REST))
    case.session = session(plan=plan(policies=(NARROW,), view=REST))
    draft = case.draft(refused(names[0], number, operation=operation, target=names[1]))
    assert (draft.verdict, draft.mechanism) == (Verdict.DENY, mechanism), draft.reason


def test_a_refused_write_that_may_be_a_refused_read(case: Case) -> None:
    def only_writing(action: Action) -> Decision:
        assert isinstance(action, FileAction)
        return ALLOWED if action.verb is Verb.FILE_WRITE else DENIED

    case.answer = only_writing
    draft = case.draft(refused("/dev/x", write=True))
    assert (draft.verb, draft.mechanism) == (Verb.FILE_WRITE, Mechanism.LANDLOCK)


@pytest.mark.parametrize("claimed", ["/home/./x/../y", "//home/y", "/home//y/"])
def test_a_claimed_path_is_judged_by_where_it_leads(
    case: Case, monkeypatch: pytest.MonkeyPatch, claimed: str
) -> None:
    case.composer = Composer(lambda _cgroup: case.session, lambda path: f"/resolved{path}")
    draft = case.draft(refused(claimed))
    assert draft.object == claimed
    assert case.asked == [FileAction(Verb.FILE_OPEN, "/resolved/home/y")]


def test_a_resolver_that_fails_changes_nothing(case: Case) -> None:
    def fail(path: str) -> str:
        raise ValueError(path)

    case.composer = Composer(lambda _cgroup: case.session, fail)
    case.draft(refused("/x"))
    assert case.asked == [FileAction(Verb.FILE_OPEN, "/x")]


def test_a_call_on_a_descriptor_claims_nothing(case: Case) -> None:
    event = opened("/a", operation=FileOperation.TRUNCATE, claimed=False, device=0, inode=0)
    assert case.draft(event).details == {}


def test_an_observed_session_is_let_pass(case: Case) -> None:
    case.observed()
    case.answer = DENIED
    draft = case.draft(opened("/etc/shadow"))
    assert (draft.verdict, draft.mechanism) == (Verdict.WOULD_DENY, Mechanism.LANDLOCK)
    assert draft.reason == DENIED.reason
    assert draft.details["remedy"] == "list it"


def test_in_an_observed_session_only_the_host_refuses_files(case: Case) -> None:
    case.observed()
    case.answer = DENIED
    draft = case.draft(refused("/etc/shadow"))
    assert (draft.verdict, draft.mechanism) == (Verdict.DENY, Mechanism.HOST)


def test_what_happened_is_never_called_refused(case: Case) -> None:
    """A name that came later than the view, or another name of an object that is granted."""
    case.answer = DENIED
    draft = case.draft(opened("/home/alice/project/.env", created=True))
    assert (draft.verdict, draft.rule) == (Verdict.ALLOW, "")
    assert DENIED.reason in draft.reason


@pytest.mark.parametrize("number", [0, errno.EACCES])
def test_a_path_that_is_not_whole_is_not_judged(case: Case, number: int) -> None:
    draft = case.draft(opened("?/x", errno=number))
    assert draft.verdict is (Verdict.DENY if number else Verdict.ALLOW)
    assert "whole path is not known" in draft.reason
    assert case.asked == []


# -- processes -------------------------------------------------------------------------------------


def started(path: str = "/usr/bin/git", **more: Any) -> ExecEvent:
    values: dict[str, Any] = {
        "path": path, "argv": ("git", "status"), "truncated": False, "device": 8 << 20, "inode": 9,
    }  # fmt: skip
    return ExecEvent(**(BASE | values | more))


def test_each_process_is_known_by_the_program_it_runs(case: Case) -> None:
    first = case.draft(started("/usr/bin/bash"))
    assert first.exe == ""
    fork = case.draft(ForkEvent(**BASE, child=101))
    assert (fork.verb, fork.object, fork.exe) == (Verb.PROC_FORK, "pid 101", "/usr/bin/bash")
    child = BASE | {"pid": 101, "tid": 101}
    assert case.draft(opened(**child)).exe == "/usr/bin/bash"
    exec_ = case.draft(started(**child))
    assert (exec_.verb, exec_.object, exec_.exe) == (
        Verb.PROC_EXEC, "/usr/bin/git", "/usr/bin/bash",
    )  # fmt: skip
    assert exec_.details == {"argv": ["git", "status"], "device": "8:0", "inode": 9}
    assert case.draft(opened(**child)).exe == "/usr/bin/git"
    exit_ = case.draft(ExitEvent(**child, status=0))
    assert (exit_.verb, exit_.object, exit_.exe) == (Verb.PROC_EXIT, "status 0", "/usr/bin/git")
    # Counts of what it did may come later; then its number is another's.
    assert case.draft(opened(**child)).exe == "/usr/bin/git"
    case.draft(ForkEvent(**BASE, child=101))
    assert case.draft(opened(**child)).exe == "/usr/bin/bash"


def test_processes_of_two_sessions_are_not_mixed_up(case: Case) -> None:
    case.composer = Composer(lambda cgroup: session(id=str(cgroup), cgroup_id=cgroup))
    case.draft(started(cgroup=1))
    assert case.draft(opened(cgroup=1)).exe == "/usr/bin/git"
    assert case.draft(opened(cgroup=2)).exe == ""


def test_a_process_from_before_is_looked_up_once(case: Case) -> None:
    looked_up: list[int] = []

    def program(pid: int) -> str:
        looked_up.append(pid)
        return "/usr/bin/old" if pid == 100 else ""

    case.composer = Composer(lambda _cgroup: case.session, program=program)
    for _again in range(2):
        assert case.draft(opened()).exe == "/usr/bin/old"
        assert case.draft(opened(pid=5, tid=5)).exe == ""
    assert looked_up == [100, 5]
    # What has just executed is not told by what it became.
    assert case.draft(started(pid=6)).exe == ""
    assert looked_up == [100, 5]


def test_processes_that_are_never_seen_to_exit_do_not_fill_the_memory(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "_PROCESSES", 3)
    for child in range(10):
        case.draft(ForkEvent(**BASE, child=child))
    assert len(case.composer._subjects[77]._programs) == 3
    monkeypatch.setattr(subject, "_ENDED", 2)
    case.draft(started())
    for child in range(10):
        case.draft(ForkEvent(**BASE, child=child))
        case.draft(ExitEvent(**(BASE | {"pid": child}), status=0))
    assert list(case.composer._subjects[77]._ended) == [8, 9]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "status 0"), (1 << 8, "status 1"), (127 << 8, "status 127"),
        (9, "signal 9 (SIGKILL)"), (11 | 0x80, "signal 11 (SIGSEGV)"), (64, "signal 64 (SIGRTMAX)"),
        (50, "signal 50"),
    ],
)  # fmt: skip
def test_how_a_process_ended(case: Case, status: int, text: str) -> None:
    assert case.draft(ExitEvent(**BASE, status=status)).object == text


def test_a_program_start_by_its_rule(case: Case) -> None:
    assert case.draft(started()).rule == str(RULE)
    assert case.asked == [ExecAction("/usr/bin/git")]


def test_a_refused_program_start(case: Case) -> None:
    case.answer = DENIED
    event = refused("/usr/bin/curl", operation=FileOperation.EXEC)
    draft = case.draft(event)
    assert (draft.verb, draft.verdict, draft.object) == (
        Verb.PROC_EXEC, Verdict.DENY, "/usr/bin/curl",
    )  # fmt: skip
    assert case.asked == [ExecAction("/usr/bin/curl")]


def test_a_program_start_that_would_be_refused(case: Case) -> None:
    case.observed()
    case.answer = DENIED
    assert case.draft(started()).verdict is Verdict.WOULD_DENY


def test_arguments_that_were_cut_off_say_so(case: Case) -> None:
    draft = case.draft(started(truncated=True, argv=("x" * 4096,)))
    assert draft.details["argv_truncated"] is True


# -- sockets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "verb", "text"),
    [
        ({}, Verb.NET_CONNECT, "192.0.2.1:443/tcp"),
        ({"address": "2001:db8::1", "family": 10, "protocol": 17, "port": 53,
          "operation": NetOperation.SEND}, Verb.NET_SEND, "[2001:db8::1]:53/udp"),
        ({"operation": NetOperation.BIND, "address": "0.0.0.0", "protocol": 132},
         Verb.NET_BIND, "0.0.0.0:443/sctp"),
        ({"operation": NetOperation.UNIX, "address": "/run/docker.sock", "family": 1},
         Verb.NET_UNIX, "/run/docker.sock"),
        ({"operation": NetOperation.UNIX, "address": "@bus", "family": 1}, Verb.NET_UNIX, "@bus"),
        ({"operation": NetOperation.UNIX, "address": "", "family": 1}, Verb.NET_UNIX, "(unnamed)"),
        ({"operation": NetOperation.SOCKET, "family": 10, "type": 3, "protocol": 58, "address": ""},
         Verb.NET_SOCKET, "socket(AF_INET6, SOCK_RAW, icmp6)"),
    ],
)  # fmt: skip
def test_socket_actions(case: Case, changes: dict[str, Any], verb: Verb, text: str) -> None:
    draft = case.draft(net(**changes))
    assert (draft.verb, draft.object) == (verb, text)
    assert (draft.verdict, draft.rule) == (Verdict.ALLOW, str(RULE))
    assert draft.mechanism is Mechanism.CGROUP_BPF


def test_the_kernels_rule_is_the_one_that_is_told(case: Case) -> None:
    case.answer = DENIED
    draft = case.draft(net(cause=DenyCause.RULE, rule=1))
    assert (draft.verdict, draft.mechanism) == (Verdict.DENY, Mechanism.CGROUP_BPF)
    assert draft.rule == "network.deny: any:25 (coder.yaml:20)"
    assert draft.details["link"] == 0


def test_the_link_that_refused_is_found_by_the_kernels_number(case: Case) -> None:
    inner = policy(profile="inner")
    case.session = session(policies=(5, 9), plan=plan(policies=(policy(), inner)))
    draft = case.draft(net(cause=DenyCause.UNLISTED, policy=9, rule=-1))
    assert draft.details["link"] == 1
    assert draft.reason == "profile inner does not list it"


@pytest.mark.parametrize("number", [-1, 2, 99])
def test_a_rule_that_the_plan_does_not_have(case: Case, number: int) -> None:
    assert case.draft(net(rule=number)).rule == ""
    assert case.draft(net(rule=0, policy=number)).rule == ""


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (DenyCause.EXPIRED, "the session's authority has expired"),
        (DenyCause.DENY_ALL, "the session's authority was revoked"),
        (DenyCause.UNLISTED, "profile coder does not list it"),
        (DenyCause.RULE, "a rule denies it"),
    ],
)
def test_each_cause_has_its_reason(case: Case, cause: DenyCause, reason: str) -> None:
    draft = case.draft(net(cause=cause, rule=-1))
    assert (draft.verdict, draft.reason) == (Verdict.DENY, reason)


def test_an_observed_connection(case: Case) -> None:
    case.observed()
    case.answer = DENIED
    draft = case.draft(net(cause=DenyCause.UNLISTED, observed=True, rule=-1))
    assert draft.verdict is Verdict.WOULD_DENY
    assert draft.details["remedy"] == "list it"
    assert case.draft(net(cause=DenyCause.EXPIRED, rule=-1)).verdict is Verdict.DENY


def test_what_the_reference_is_asked(case: Case) -> None:
    import ipaddress

    case.draft(net())
    case.draft(net(operation=NetOperation.UNIX, address="/x", family=1))
    case.draft(net(operation=NetOperation.SOCKET, type=3, protocol=1))
    assert case.asked == [
        NetAction(Verb.NET_CONNECT, ipaddress.ip_address("192.0.2.1"), 443, 6),
        UnixAction("/x"),
        SocketAction(2, 3, 1),
    ]


def test_listening(case: Case) -> None:
    event = net(operation=NetOperation.LISTEN, address="127.0.0.1", port=8000, policy=0, rule=-1)
    draft = case.draft(event)
    assert (draft.verb, draft.verdict) == (Verb.NET_LISTEN, Verdict.ALLOW)
    assert draft.rule == str(RULE)
    case.answer = DENIED
    draft = case.draft(net(operation=NetOperation.LISTEN, address="0.0.0.0", port=41234))
    assert (draft.verdict, draft.rule) == (Verdict.ALLOW, "")
    case.observed()
    case.composer = Composer(lambda _cgroup: case.session)
    assert case.draft(event).verdict is Verdict.WOULD_DENY


# -- system calls ----------------------------------------------------------------------------------

FLOOR = Decision(Verdict.DENY, "programs in the kernel", Mechanism.SECCOMP, None, RULE)


@pytest.mark.parametrize(
    ("event", "verb", "text"),
    [
        (call("bpf", 5, 0x7FFD00000000, 120), Verb.SYSCALL, "bpf(5, 0x7ffd00000000, 120)"),
        (call("ptrace", 16, 0xFFFFFFFF), Verb.SYSCALL, "ptrace(16, -1, 0, 0)"),
        (call("listen", 3, 128), Verb.NET_LISTEN, "listen(3, 128)"),
        (call("socket", 16, 0x80003, 0, number=errno.EAFNOSUPPORT), Verb.NET_SOCKET,
         "socket(AF_NETLINK, SOCK_RAW, any)"),
        (call("kill", 2**64 - 1, 9), Verb.PROC_SIGNAL, "kill(-1, 9)"),
    ],
)  # fmt: skip
def test_calls_that_the_floor_refuses(
    case: Case, event: SyscallEvent, verb: Verb, text: str
) -> None:
    case.answer = FLOOR
    draft = case.draft(event)
    assert (draft.verb, draft.object, draft.verdict) == (verb, text, Verdict.DENY)
    assert (draft.mechanism, draft.reason, draft.rule) == (
        Mechanism.SECCOMP, FLOOR.reason, str(RULE),
    )  # fmt: skip
    assert case.asked == [SyscallAction(event.number, event.arguments)]


def test_the_floor_holds_in_an_observed_session(case: Case) -> None:
    case.observed()
    case.answer = FLOOR
    assert case.draft(call("bpf", 5)).verdict is Verdict.DENY


@pytest.mark.parametrize(
    "name",
    sorted(REFUSED_CALLS - {"kill", "tkill", "tgkill", "pidfd_send_signal", "ioctl"}),
)
def test_the_hosts_own_refusals_of_everyday_calls_are_left_out(case: Case, name: str) -> None:
    assert case.composer.compose(call(name, 1, 2, 3)) is None


@pytest.mark.parametrize("name", ["kill", "tkill", "tgkill", "pidfd_send_signal"])
def test_signals_out_of_the_session(case: Case, name: str) -> None:
    draft = case.draft(call(name, 1, 9))
    assert (draft.verb, draft.verdict) == (Verb.PROC_SIGNAL, Verdict.DENY)
    assert draft.mechanism is Mechanism.LANDLOCK
    case.observed()
    case.composer = Composer(lambda _cgroup: case.session)
    assert case.draft(call(name, 1, 9)).mechanism is Mechanism.HOST


def test_a_signal_within_the_session_is_refused_by_the_host(case: Case) -> None:
    case.draft(ForkEvent(**BASE, child=101))
    assert case.draft(call("kill", 101, 9)).mechanism is Mechanism.HOST


def test_ioctl_on_a_device(case: Case) -> None:
    draft = case.draft(call("ioctl", 3, 0x5401, number=errno.EACCES))
    assert (draft.verb, draft.mechanism) == (Verb.SYSCALL, Mechanism.LANDLOCK)
    assert case.composer.compose(call("ioctl", 3, 0x5401)) is None


def test_every_call_that_the_probes_report_has_a_name_and_its_number() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h").read_text()
    numbers = dict(re.findall(r"#define __NR_(\w+) (\d+)", header))
    for calls in CALL_EXITS.values():
        for name in (CALLS.get(each, each) for each in calls.split()):
            assert name in syscalls.NUMBERS
            if name in numbers:
                assert int(numbers[name]) == syscalls.NUMBERS[name]
    assert objects.call(9999, (1, 2, 3, 4, 5, 6)) == "syscall_9999(1, 2, 3)"
    assert set(objects._ARITY) <= set(syscalls.NUMBERS)


# -- anything at all -------------------------------------------------------------------------------


U64 = st.integers(0, 2**64 - 1)
COMMON: dict[str, st.SearchStrategy[Any]] = {
    "time": st.integers(0, 2**62), "cgroup": st.sampled_from([77, 5]), "pid": st.integers(0, 2**22),
    "tid": st.integers(0, 2**22), "comm": names, "count": st.integers(1, 2**40),
}  # fmt: skip
EVENTS = st.one_of(
    st.builds(
        FileEvent, **COMMON, operation=st.sampled_from(FileOperation), path=names, target=names,
        claimed=st.booleans(), write=st.booleans(), created=st.booleans(),
        device=st.integers(0, 2**32 - 1), inode=U64, errno=st.sampled_from([0, 1, 13, 18, 30, 999]),
    ),
    st.builds(ForkEvent, **COMMON, child=st.integers(0, 2**22)),
    st.builds(
        ExecEvent, **COMMON, path=names, argv=st.lists(names, max_size=4).map(tuple),
        truncated=st.booleans(), device=st.integers(0, 2**32 - 1), inode=U64,
    ),
    st.builds(ExitEvent, **COMMON, status=st.integers(0, 2**32 - 1)),
    st.builds(
        NetEvent, **COMMON, operation=st.sampled_from(NetOperation), family=st.integers(0, 65535),
        type=st.integers(0, 65535), protocol=st.integers(0, 65535),
        address=st.ip_addresses().map(str), port=st.integers(0, 65535),
        cause=st.sampled_from(DenyCause), observed=st.booleans(), policy=st.integers(0, 2**32 - 1),
        rule=st.integers(-(2**31), 2**31 - 1),
    ),
    st.builds(
        SyscallEvent, **COMMON, number=st.integers(-(2**31), 2**31 - 1),
        arguments=st.tuples(*[U64] * 6), errno=st.integers(0, 4095),
    ),
)  # fmt: skip


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(EVENTS, st.sampled_from([ALLOWED, DENIED]))
def test_any_event_can_be_recorded(case: Case, event: AnyEvent, answer: Decision) -> None:
    case.answer = answer
    draft = case.composer.compose(event)
    if draft is not None:
        body = canonical.encode(1, draft)
        record = canonical.decode(body, bytes(32))
        assert all(
            getattr(record, field.name) == getattr(draft, field.name) for field in fields(Draft)
        )


@settings(max_examples=300, deadline=None)
@given(EVENTS, st.booleans())
def test_any_event_can_be_judged_by_a_real_profile(event: AnyEvent, observe: bool) -> None:
    governed = replace(shipped("coding-agent"), observe=observe)
    composer = Composer(lambda _cgroup: session(plan=governed))
    draft = composer.compose(event)
    if draft is not None:
        canonical.encode(1, draft)
        assert printable(draft.reason) == draft.reason


def test_a_name_that_is_not_text_stays_exact(case: Case) -> None:
    draft = case.draft(opened(os.fsdecode(b"/tmp/\xff\x1b[31m")))
    record = canonical.decode(canonical.encode(1, draft), bytes(32))
    assert os.fsencode(record.object) == b"/tmp/\xff\x1b[31m"
