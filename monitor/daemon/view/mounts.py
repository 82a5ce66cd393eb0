# SPDX-License-Identifier: Apache-2.0
"""Makes the mounts of a session's view; runs in a forked maker inside the child's namespace.

It has the host's root authority in a place that the session's user may have prepared, so it
believes and changes nothing there: it lists folders, opens path descriptors, and mounts. What it
copies (ssh's files) it reads before it enters; what it writes, it writes before others can reach
it. Every step works on descriptors: a name that is swapped meanwhile is masked where it was found,
or the view fails.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from monitor.daemon.view import live
from monitor.daemon.view.aliases import aliases
from monitor.daemon.view.patterns import Reach
from monitor.daemon.view.request import Identity, ViewError, ViewRequest
from monitor.daemon.view.rest import read_only_rest
from monitor.daemon.view.room import ATTRIBUTES, EMPTY_FILE, EMPTY_FOLDER, new_room
from monitor.daemon.view.run import NOTHING_RUNS, RUN_FOLDERS, hide_run
from monitor.daemon.view.ssh import Copies
from monitor.daemon.view.targets import Search
from monitor.daemon.view.terminals import new_terminals, own_terminals
from monitor.kernel import mounts, unixdiag
from monitor.kernel.libc import CLONE_NEWNS, setns
from monitor.kernel.mounts import open_plain
from monitor.policy.patterns import is_within
from monitor.policy.plan import TERMINALS, MaskKind

PROC = "/proc"
# Sockets outside /run that lead out of a session: X, ssh, gpg, tmux, D-Bus.
SOCKET_PATTERNS = ("/tmp/.X11-unix", "/tmp/.ICE-unix", "/tmp/ssh-*", "/tmp/tmux-*", "/tmp/dbus-*")
SOCKET_LIMIT = 4096


@dataclass(slots=True)
class Report:
    """What was done: `masked` objects, and notes for the launch record."""

    masked: int = 0
    notes: list[str] = field(default_factory=list)


@contextmanager
def step(what: str, place: str | None = None) -> Iterator[None]:
    """Turn the OSError of a step into a ViewError that names it and its object (or `place`)."""
    try:
        yield
    except OSError as error:
        name = place or error.filename
        on = f" {name}" if name is not None else ""
        raise ViewError(f"cannot {what}{on}: {error.strerror}") from error


def build(namespace: int, request: ViewRequest) -> Report:
    """Enter the mount namespace and make the whole view. ViewError where it fails."""
    identity = request.identity
    report = Report()
    with ExitStack() as stack:

        def keep(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        # New file systems belong to the host, so that no capability in the session's own user
        # namespace counts for them; hence before entering.
        copies = Copies.read() if identity.user_namespace else Copies()
        proc = terminals = None
        bound: set[bytes] = set()
        if request.hide_sockets:
            with step("list unix sockets:"):
                bound = unixdiag.paths()
        with step("make a file system of the view:"):
            room = keep(new_room(copies, identity))
            if request.own_proc:
                proc = keep(mounts.new_filesystem("proc", {"hidepid": "4"}, NOTHING_RUNS))
            if request.own_terminals:
                terminals = keep(new_terminals())
        with step("enter the mount namespace:"):
            setns(namespace, CLONE_NEWNS)
        with step("make mounts private:"):
            mounts.make_private()
        root = keep(mounts.open_root())
        reach = Reach(request.rules)
        if request.hide_run:
            for place in RUN_FOLDERS:
                with step(f"hide {place}:"):
                    hide_run(root, place, request, report.notes)
        if request.read_only_rest:
            with step("make the rest read-only:"):
                read_only_rest(root, reach.writable())
        # What comes now keeps what it has: these are file systems of the session's own.
        if proc is not None:
            with step("mount a /proc of its own on", PROC):
                mounts.attach(proc, keep(mounts.open_entry(root, PROC[1:])), PROC)
        others: list[str] = []
        if terminals is not None:
            with step("mount terminals of its own on", TERMINALS):
                others = own_terminals(root, terminals, reach)
        with step("find what the masks match:"):
            targets = _targets(request, reach, report)
            for path in _unlisted_sockets(request, bound):
                targets.setdefault(path, set()).add(MaskKind.HIDE)
        for path in others:
            targets.setdefault(path, set()).add(MaskKind.HIDE)
        # Attached for a moment: only what is in a namespace can be mounted again elsewhere. Over
        # the root it is in nobody's way, and only the waiting child lives here.
        with step("mount the empty objects:"):
            mounts.attach(room, root, "/")
        _Masks(root, room, reach).make(targets, copies)
        with step("unmount the empty objects:"):
            mounts.unmount(room, "/")
    report.masked = len(targets)
    return report


def narrow(namespace: int, request: ViewRequest) -> Report:
    """Enter the namespace of a session that runs, and mask what is not masked there yet."""
    report = Report()
    with step("enter the mount namespace:"):
        setns(namespace, CLONE_NEWNS)
    root = mounts.open_root()
    try:
        found = Search(Reach(request.rules), request.mask_limit).run(request.masks)
        for path, kinds in aliases(found.targets, Reach(request.rules)).items():
            found.targets.setdefault(path, set()).update(kinds)
        report.masked = len(live.mask(root, found.targets))
        report.notes += found.notes
    finally:
        os.close(root)
    return report


def rehearse() -> None:
    """Do all of it that leaves nothing behind; a maker that has done it once is quicker."""
    request = ViewRequest(Identity(0, 0, False), ((),), (), False, True, True, True, (), 1)
    with suppress(ViewError, OSError):
        request = ViewRequest.from_json(request.to_json())
        _targets(request, Reach(request.rules), Report())
        mounts.mounts()
        os.close(new_room(Copies.read(), request.identity))
        os.close(new_terminals())


def _targets(request: ViewRequest, reach: Reach, report: Report) -> dict[str, set[MaskKind]]:
    """All paths to mask, aliases included."""
    found = Search(reach, request.mask_limit).run(request.masks)
    report.notes += found.notes
    targets = found.targets
    for path, kinds in aliases(targets, reach).items():
        targets.setdefault(path, set()).update(kinds)
    if request.hide_run:
        for path in _foreign_sockets(request, reach):
            targets.setdefault(path, set()).add(MaskKind.HIDE)
    return targets


def _foreign_sockets(request: ViewRequest, reach: Reach) -> Iterator[str]:
    """Folders of sockets outside /run that the session's user could open."""
    masks = [(pattern, MaskKind.HIDE) for pattern in SOCKET_PATTERNS]
    for path in Search(reach, SOCKET_LIMIT).run(masks).targets:
        if any(is_within(socket, path) for socket in request.sockets):
            continue
        with suppress(OSError):
            owner = os.stat(path, follow_symlinks=False).st_uid  # noqa: PTH116
            if owner in (0, request.identity.uid):
                yield path


def _unlisted_sockets(request: ViewRequest, bound: set[bytes]) -> Iterator[str]:
    """Sockets outside the hidden folders that servers have bound and that no rule lists."""
    listed = {os.path.realpath(path) for path in request.sockets}
    for name in sorted(bound):
        path = os.path.realpath(os.fsdecode(name))
        if path in listed or any(is_within(path, folder) for folder in RUN_FOLDERS):
            continue
        with suppress(OSError):
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                yield path


# -- masks -----------------------------------------------------------------------------------------


class _Node:
    """One name on the way to masks; `kinds` where it is masked itself."""

    __slots__ = ("kinds", "names")

    def __init__(self) -> None:
        self.names: dict[str, _Node] = {}
        self.kinds: set[MaskKind] = set()


class _Masks:
    """Mounts masks, outermost first, always onto the topmost mount at a place."""

    def __init__(self, root: int, room: int, reach: Reach) -> None:
        self._root = root
        self._room = room
        self._reach = reach
        self._made: list[tuple[str, int]] = []  # path, and the id of the mount made there

    def make(self, targets: dict[str, set[MaskKind]], copies: Copies) -> None:
        for name, path in copies.places:
            with step("give ssh its files in", path):
                self._replace(name, path)
        top = _Node()
        for path, kinds in targets.items():
            node = top
            for name in path[1:].split("/"):
                node = node.names.setdefault(name, _Node())
            node.kinds |= kinds
        empty_file = mounts.open_entry(self._room, EMPTY_FILE)
        empty_folder = mounts.open_entry(self._room, EMPTY_FOLDER)
        try:
            self._beneath(top, self._root, "", (empty_file, empty_folder))
        finally:
            os.close(empty_file)
            os.close(empty_folder)
        self._check()

    def _beneath(self, node: _Node, directory: int, path: str, empty: tuple[int, int]) -> None:
        for name, child in node.names.items():
            self._visit(child, directory, f"{path}/{name}", name, empty)

    def _visit(
        self, node: _Node, directory: int, path: str, name: str, empty: tuple[int, int]
    ) -> None:
        with step("mask", path):
            here = mounts.open_entry(directory, name)
        top = here
        try:
            with step("mask", path):
                facts = os.fstat(here)
                if stat.S_ISLNK(facts.st_mode):
                    raise ViewError(f"cannot mask {path}: it became a symbolic link meanwhile")
                if MaskKind.HIDE in node.kinds:
                    top = mounts.clone(empty[stat.S_ISDIR(facts.st_mode)], path, recursive=False)
                elif node.kinds:
                    top = mounts.clone(here, path)
                    for kind in node.kinds:
                        mounts.add_attributes(top, ATTRIBUTES[kind], path)
                elif self._reach.writes(os.path.dirname(path)):  # noqa: PTH120 - on text
                    # A mount point cannot be renamed or removed: what it holds stays in place.
                    top = mounts.clone(here, path)
                if top != here:
                    mounts.attach(top, here, path)
                    self._made.append((path, mounts.mount_id(top)))
            if MaskKind.HIDE not in node.kinds:
                self._beneath(node, top, path, empty)
        finally:
            os.close(here)
            if top != here:
                os.close(top)

    def _replace(self, name: str, path: str) -> None:
        """Put the room's `name` over `path`, where there is one."""
        here = open_plain(self._root, path)
        if here is None:
            return
        try:
            mounts.attach_entry(self._room, name, here, path)
        finally:
            os.close(here)

    def _check(self) -> None:
        """Every name must lead to the mount made there: else it was swapped in between."""
        for path, made in self._made:
            with step("look at the mask again on", path):
                here = open_plain(self._root, path)
                if here is None:
                    raise ViewError(f"cannot mask {path}: it was moved away meanwhile")
                try:
                    same = mounts.mount_id(here) == made
                finally:
                    os.close(here)
            if not same:
                raise ViewError(f"cannot mask {path}: something else took its place meanwhile")
