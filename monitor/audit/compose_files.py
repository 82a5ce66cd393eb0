# SPDX-License-Identifier: Apache-2.0
"""Findings on files: what happened, and which rule let it; what was refused, and by whom."""

from __future__ import annotations

import errno
import os
from typing import Any

from monitor.audit import compose_lsm, objects
from monitor.audit.subject import Finding, Subject, because, on, on_file, on_open, text_of
from monitor.policy.action import Decision, Mechanism, SyscallAction, Verb, Verdict
from monitor.policy.compile_files import granting
from monitor.policy.patterns import pattern
from monitor.policy.plan import FileAccess
from monitor.policy.syscalls import NUMBERS
from monitor.wire.events import FileEvent, FileOperation

VERBS = {
    FileOperation.OPEN: Verb.FILE_OPEN,
    FileOperation.UNLINK: Verb.FILE_UNLINK,
    FileOperation.RENAME: Verb.FILE_RENAME,
    FileOperation.LINK: Verb.FILE_LINK,
    FileOperation.MKDIR: Verb.FILE_MKDIR,
    FileOperation.CHMOD: Verb.FILE_CHMOD,
    FileOperation.TRUNCATE: Verb.FILE_TRUNCATE,
    FileOperation.EXEC: Verb.PROC_EXEC,
    FileOperation.MAP: Verb.PROC_EXEC,
    FileOperation.RECEIVE: Verb.FILE_RECEIVE,
}
HOST_REASONS = {
    errno.EROFS: "the host's file system is read-only there (EROFS)",
    errno.EXDEV: "the two names lie on different file systems (EXDEV)",
    errno.EBUSY: "the host has the name in use (EBUSY)",
}
# openat(2) with both bits of the access mode.
OPEN_FOR_IOCTL = SyscallAction(NUMBERS["openat"], (0, 0, os.O_ACCMODE))
_OPEN = FileOperation.OPEN
# What is in no mount that anybody sees: sockets, pipes, memory.
UNPLACED = "?/"
PASSED = "it was passed in open, over a unix socket"
_ALLOW = Verdict.ALLOW
_EXECVE = NUMBERS["execve"]


def find(subject: Subject, event: FileEvent) -> Finding | None:
    """The finding on a file call, done or refused; None: the gate refused it and has told so."""
    operation = event.operation
    if event.cause is not None:
        return compose_lsm.find(subject, event, _verb(event))
    if operation is FileOperation.EXEC and event.errno == errno.EPERM and _is_gated(subject):
        return None
    verb = _verb(event)
    if event.errno:
        return _refused(subject, event, verb)
    if operation is FileOperation.RECEIVE:
        return _received(subject, event)
    return _done(subject, event, verb)


def _verb(event: FileEvent) -> Verb:
    if event.operation in {_OPEN, FileOperation.USE}:
        return Verb.FILE_WRITE if event.write or event.created else Verb.FILE_OPEN
    return VERBS[event.operation]


def _is_gated(subject: Subject) -> bool:
    return subject.plan is not None and _EXECVE in subject.plan.syscalls.notified


def _done(subject: Subject, event: FileEvent, verb: Verb) -> Finding:
    path, target = event.path, event.target
    details: dict[str, Any]
    if event.operation is not _OPEN:
        decision = _decision_on_claim(subject, event, verb)
        details = {"claimed": True} if event.claimed else {}
    else:
        decision = on_open(subject, verb, path)
        details = {"device": objects.device(event.device), "inode": event.inode}
    if event.created:
        details["created"] = True
    what = f"{path} -> {target}" if target else path
    if decision is None:
        reason = subject.stranger if subject.plan is None else "its whole path is not known"
        return Finding(verb, what, _ALLOW, reason, "", Mechanism.NONE, details)
    if decision.verdict is _ALLOW:
        return Finding(
            verb, what, _ALLOW, decision.reason, text_of(decision.rule), decision.mechanism, details
        )
    details |= because(decision)
    if subject.observe:
        verdict, reason, mechanism = Verdict.WOULD_DENY, decision.reason, decision.mechanism
        return Finding(verb, what, verdict, reason, text_of(decision.rule), mechanism, details)
    # Rules hold objects: one that got this name later, or has another one, is judged by those.
    reason = f"it happened, although by this name: {decision.reason}"
    return Finding(verb, what, _ALLOW, reason, "", Mechanism.NONE, details)


def _received(subject: Subject, event: FileEvent) -> Finding:
    """What came in open, which nobody decides on: said is what the rules think of it."""
    details: dict[str, Any] = {"device": objects.device(event.device), "inode": event.inode}
    if event.write:
        details["write"] = True
    what = event.path
    if what.startswith(UNPLACED) and "/" not in what[len(UNPLACED) :]:
        what = what[len(UNPLACED) :] or "pipe"
        return Finding(Verb.FILE_RECEIVE, what, _ALLOW, PASSED, "", Mechanism.NONE, details)
    decision = on_open(subject, Verb.FILE_WRITE if event.write else Verb.FILE_OPEN, what)
    if decision is None:
        reason = subject.stranger if subject.plan is None else PASSED
        return Finding(Verb.FILE_RECEIVE, what, _ALLOW, reason, "", Mechanism.NONE, details)
    if decision.verdict is not _ALLOW:
        details["unlisted"] = True
    reason = f"{PASSED}; opening it: {decision.reason}"
    return Finding(Verb.FILE_RECEIVE, what, _ALLOW, reason, "", Mechanism.NONE, details)


def _refused(subject: Subject, event: FileEvent, verb: Verb) -> Finding:
    what = objects.file(event.path, event.target)
    details: dict[str, Any] = {"errno": objects.error_name(event.errno)}
    if event.claimed:
        details["claimed"] = True
    floor = _by_the_floor(subject, event)
    if floor is not None:
        rule = text_of(floor.rule)
        return Finding(verb, what, Verdict.DENY, floor.reason, rule, floor.mechanism, details)
    decision = _decision_on_claim(subject, event, verb)
    if decision is not None and decision.verdict is _ALLOW and verb is Verb.FILE_WRITE:
        # It may have asked to read as well.
        decision = _decision_on_claim(subject, event, Verb.FILE_OPEN)
    if decision is None:
        error = details["errno"]
        reason = subject.stranger if subject.plan is None else "its whole path is not known"
        return Finding(verb, what, Verdict.DENY, f"{error}: {reason}", "", Mechanism.NONE, details)
    if decision.verdict is _ALLOW:
        decision = _by_the_view(subject, event) or decision
    # Landlock leaves attributes alone: what no read-only mount refused, the host did.
    attributes = verb is Verb.FILE_CHMOD and event.errno != errno.EROFS and decision.rule is None
    if subject.observe or decision.verdict is _ALLOW or attributes:
        return Finding(
            verb, what, Verdict.DENY, host_reason(event.errno), "", Mechanism.HOST, details
        )
    details |= because(decision)
    rule, mechanism = text_of(decision.rule), decision.mechanism
    if event.errno == errno.EACCES and mechanism is Mechanism.VIEW and decision.rule is None:
        mechanism = Mechanism.LANDLOCK  # on no read-only mount after all: a device, say
    return Finding(verb, what, Verdict.DENY, decision.reason, rule, mechanism, details)


def _by_the_floor(subject: Subject, event: FileEvent) -> Decision | None:
    """The filter's refusal of an open for ioctl alone, whatever file it names; observed too."""
    if not event.ioctl_only or event.errno != errno.EPERM:
        return None
    decision = on(subject, OPEN_FOR_IOCTL)
    return decision if decision is not None and decision.verdict is Verdict.DENY else None


def _rest_is_read_only(subject: Subject) -> bool:
    return (
        subject.plan is not None
        and subject.plan.view is not None
        and (subject.plan.view.read_only_rest)
    )


def _by_the_view(subject: Subject, event: FileEvent) -> Decision | None:
    """What the reference would allow, and the view's mounts refuse."""
    if event.errno == errno.EBUSY:
        return _held(subject, event)
    if event.errno == errno.EXDEV and _rest_is_read_only(subject):
        return _apart(subject, event)
    return None


def _apart(subject: Subject, event: FileEvent) -> Decision | None:
    """Two names in trees that the view mounts one by one: nothing is moved between mounts."""
    assert subject.plan is not None
    trees = []
    for name in (event.path, event.target):
        path = subject.normal(name) if name.startswith("/") else ""
        rules = [
            rule.path
            for policy in subject.plan.policies
            for rule in granting(policy.files, path)
            if FileAccess.WRITE in rule.access
        ]
        trees.append(min(rules, key=len, default=""))
    if not all(trees) or trees[0] == trees[1]:
        return None
    reason = f"{trees[0]} and {trees[1]} are mounts of their own in the view: copy it (EXDEV)"
    return Decision(Verdict.DENY, reason, Mechanism.VIEW)


def _held(subject: Subject, event: FileEvent) -> Decision | None:
    """The mask that keeps a folder in place, which the reference knows for plain names only.

    Folders above what a mask covers are mount points; which those are shows at launch.
    """
    if subject.plan is None or subject.plan.view is None:
        return None
    names = [subject.normal(name) for name in (event.path, event.target) if name.startswith("/")]
    for link, policy in enumerate(subject.plan.policies):
        for mask in policy.masks:
            for name in names:
                if pattern(mask.pattern).reaches_into(name):
                    reason = f"{name} holds what a rule protects: {mask.origin}"
                    return Decision(Verdict.DENY, reason, Mechanism.VIEW, link, mask.origin)
    return None


def _decision_on_claim(subject: Subject, event: FileEvent, verb: Verb) -> Decision | None:
    path, target = event.path, event.target
    if event.claimed and path.startswith("/"):
        path = subject.normal(path)
    if event.claimed and target.startswith("/"):
        target = subject.normal(target)
    return on_file(subject, verb, path, target)


def host_reason(number: int) -> str:
    """Why it was refused where the profile would allow it."""
    known = HOST_REASONS.get(number)
    return known or f"the host's own permissions refused it ({objects.error_name(number)})"
