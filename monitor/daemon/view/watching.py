# SPDX-License-Identifier: Apache-2.0
"""Watches the names that a session's rules are about, from inside its mount namespace.

Runs in a maker that stays (helper.py). It marks what the rules name, so that opens of it wait for
the gate; is told of names that appear in the folders where the rules may name something; and marks
and masks those at once. Between a name's appearing and its mark lies a moment, which
docs/threat-model.md tells of.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass, field

from monitor.daemon.view import live
from monitor.daemon.view.aliases import aliases
from monitor.daemon.view.patterns import Reach
from monitor.daemon.view.request import ViewError, WatchRequest
from monitor.daemon.view.targets import DEPTH_LIMIT, READ_DIRECTORY, Search
from monitor.kernel import fanotify, mounts
from monitor.kernel.fanotify import Appeared
from monitor.policy.patterns import parent, pattern
from monitor.policy.plan import MaskKind
from monitor.wire.opens import InodeRow, OpensMemory

# Marks of one session. Each keeps its inode in the kernel's memory: about a kilobyte.
MARK_LIMIT = 65_536
# Rows of its memory: files that are made and removed again leave theirs behind.
ROW_LIMIT = 4 * MARK_LIMIT
# Longest time for one piece of work; a file system that keeps the watcher waiting ends it.
STEP_SECONDS = 10
MESSAGE_BYTES = 1 << 20


@dataclass(slots=True)
class Counts:
    """What a scan did: inodes whose opens wait, folders that are watched, masks that were made."""

    marked: int = 0
    watched: int = 0
    masked: int = 0
    notes: list[str] = field(default_factory=list)


class Watcher:
    """One session's. The descriptors are those of its groups and of its memory."""

    def __init__(self, request: WatchRequest, opens: int, names: int, memory: int) -> None:
        self.request = request
        self.counts = Counts()
        self._opens = opens
        self._names = names
        self._memory = OpensMemory(memory)
        self._root = mounts.open_root()
        self._reach = Reach(request.rules)
        self._folders: dict[bytes, str] = {}
        self._marked: set[tuple[int, int]] = set()
        self._rows: set[InodeRow] = set()
        self._masked = 0  # since it started; each is a mount

    # -- everything, as it is now --------------------------------------------------------------

    def scan(self) -> Counts:
        """Mark, watch and mask all that is there. ViewError where that cannot be done."""
        self.counts = Counts()
        self._folders.clear()
        self._marked.clear()
        request = self.request
        masks = Search(self._reach, request.mask_limit, self._watch).run(request.masks)
        targets = masks.targets
        for path, kinds in aliases(targets, self._reach).items():
            targets.setdefault(path, set()).update(kinds)
        if request.masking:
            self._mask(targets)
        named = [(text, MaskKind.READ_ONLY) for text, denies in request.opens if not denies]
        found = Search(self._reach, MARK_LIMIT, self._watch).run(named)
        self._mark_all(found.patterns, denied=False)
        if not request.masking:
            self._mark_all(masks.patterns, denied=True)
        return self.counts

    def _mark_all(self, found: dict[str, set[str]], *, denied: bool) -> None:
        for path, texts in found.items():
            self._cover(path, self._indexes(texts, denied=denied))

    def _indexes(self, texts: set[str], *, denied: bool) -> set[int]:
        return {
            number
            for number, (text, denies) in enumerate(self.request.opens)
            if text in texts and denies is denied
        }

    def change(self, request: WatchRequest) -> Counts:
        """Go on under other rules. What is masked stays so."""
        self.request = request
        self._reach = Reach(request.rules)
        self._memory.forget()
        self._rows.clear()
        return self.scan()

    # -- names that appear ---------------------------------------------------------------------

    def appeared(self) -> Counts:
        """Take in the names that appeared since, as far as one read has them."""
        self.counts = Counts()
        targets: dict[str, set[MaskKind]] = {}
        # What was marked may be gone by now: a scan tells how much there is.
        again = self._full()
        for each in fanotify.read_names(self._names):
            folder = self._folders.get(each.handle)
            if not each.handle:
                again = True
            elif folder is not None:
                again |= self._arrived(_join(folder, each.name), each, targets)
        if targets and self.request.masking:
            for path, kinds in aliases(targets, self._reach).items():
                targets.setdefault(path, set()).update(kinds)
            self._mask(targets)
        if not again:
            return self.counts
        before = self.counts
        after = self.scan()
        after.masked += before.masked
        return after

    def _arrived(self, path: str, what: Appeared | None, targets: dict[str, set[MaskKind]]) -> bool:
        """One new name, and all beneath it; whether everything must be looked at again."""
        opened = {
            number: denies
            for number, (text, denies) in enumerate(self.request.opens)
            if pattern(text).covers(path)
        }
        masked = {
            kind
            for text, kind in self.request.masks
            if pattern(text).covers(path) and not pattern(text).covers(parent(path))
        }
        if what is not None and not what.folder and not opened and not masked:
            return False
        here = mounts.open_plain(self._root, path)
        if here is None:
            return False
        try:
            mode = os.fstat(here).st_mode
            if stat.S_ISLNK(mode):
                return bool(opened or masked)
            if opened:
                self._cover(path, set(opened))
            if masked:
                targets.setdefault(path, set()).update(masked)
            if not stat.S_ISDIR(mode) or MaskKind.HIDE in masked or not self._leads(path):
                return False
            return self._enter(here, path, targets)
        finally:
            os.close(here)

    def _enter(self, here: int, path: str, targets: dict[str, set[MaskKind]]) -> bool:
        if path.count("/") > DEPTH_LIMIT:
            raise ViewError(f"cannot search {path}: more than {DEPTH_LIMIT} folders deep")
        self._watch(here, path)
        again = False
        with suppress(FileNotFoundError):
            for each in _entries(here):
                again |= self._arrived(_join(path, each.name), None, targets)
        return again

    def _leads(self, path: str) -> bool:
        """Whether a rule may name something beneath the folder."""
        texts = [text for text, _kind in self.request.masks]
        texts += [text for text, _denies in self.request.opens]
        return self._reach.leads(path) and any(pattern(text).reaches_into(path) for text in texts)

    # -- marks and masks -----------------------------------------------------------------------

    def _watch(self, folder: int, path: str) -> None:
        """Have the kernel tell of names that appear in the folder, where the session may go."""
        if not self._reach.touches(path):
            return
        try:
            fanotify.mark_names(self._names, folder)
            handle = fanotify.handle(folder)
        except FileNotFoundError:
            return
        except OSError as error:
            self.counts.notes.append(
                f"names that appear in {path} after launch are not noticed: {error.strerror}"
            )
            return
        if handle not in self._folders:
            self.counts.watched += 1
        self._folders[handle] = path
        self._bound()

    def _cover(self, path: str, rules: set[int]) -> None:
        """Have opens of `path`, and of all beneath it, wait: `rules` mean it."""
        if not rules:
            return
        above = mounts.open_plain(self._root, parent(path))
        if above is None:
            return
        try:
            self._cover_entry(above, path.rpartition("/")[2], path, rules)
        finally:
            os.close(above)

    def _cover_entry(self, above: int, name: str, path: str, rules: set[int]) -> None:
        try:
            here = mounts.open_entry(above, name)
        except OSError as error:
            if error.errno in mounts.GONE:
                return
            raise
        try:
            facts = os.fstat(here)
            if stat.S_ISREG(facts.st_mode):
                self._write(facts.st_dev, [facts.st_ino], rules)
                self._hold(above, name, path)
            elif stat.S_ISDIR(facts.st_mode):
                self._write(facts.st_dev, [facts.st_ino], rules)
                self._cover_folder(here, path, rules)
        finally:
            os.close(here)

    def _cover_folder(self, here: int, path: str, rules: set[int]) -> None:
        if path.count("/") > DEPTH_LIMIT:
            raise ViewError(f"cannot mark {path}: more than {DEPTH_LIMIT} folders deep")
        self._watch(here, path)
        try:
            entries = _entries(here)
        except FileNotFoundError:
            return
        files = [each for each in entries if each.is_file(follow_symlinks=False)]
        if files:
            self._write(os.fstat(here).st_dev, [each.inode() for each in files], rules)
        for each in entries:
            if each.is_dir(follow_symlinks=False):
                self._cover_entry(here, each.name, _join(path, each.name), rules)
        # Last, since the watcher's own opens beneath would wait for the gate as well. What appeared
        # meanwhile is told of.
        self._hold(here, ".", path, tree=True)
        for each in files:
            self._hold(here, each.name, path)

    def _hold(self, folder: int, name: str, path: str, *, tree: bool = False) -> None:
        with suppress(FileNotFoundError):
            try:
                fanotify.mark_opens(self._opens, folder, name, tree=tree)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise ViewError(f"cannot mark {name} of {path}: {error.strerror}") from error

    def _write(self, device: int, numbers: list[int], rules: set[int]) -> None:
        """Say what these inodes mean, before they are marked."""
        before = len(self._marked)
        self._marked.update((device, number) for number in numbers)
        self.counts.marked += len(self._marked) - before
        self._bound()
        rows = {InodeRow(device, number, rule) for number in numbers for rule in rules}
        news = rows - self._rows
        if len(self._rows) + len(news) > ROW_LIMIT:
            raise ViewError(f"more than {ROW_LIMIT} files were named by the rules on files")
        if news:
            self._memory.add(list(news))
            self._rows |= news

    def _mask(self, targets: dict[str, set[MaskKind]]) -> None:
        """Mask, and where the rule denies reading have opens wait as well."""
        for path, kinds in targets.items():
            if MaskKind.HIDE in kinds and not live.is_masked(self._root, path, kinds):
                denying = {
                    number
                    for number, (text, denies) in enumerate(self.request.opens)
                    if denies and pattern(text).covers(path)
                }
                self._cover(path, denying)
        self._masked += len(made := live.mask(self._root, targets))
        self.counts.masked += len(made)
        if self._masked > self.request.mask_limit:
            raise ViewError(
                f"more than {self.request.mask_limit} names appeared that the rules take away"
            )

    def _full(self) -> bool:
        return len(self._folders) + len(self._marked) > MARK_LIMIT - 64

    def _bound(self) -> None:
        if len(self._folders) + len(self._marked) > MARK_LIMIT:
            raise ViewError(
                f"the rules on files lead to more than {MARK_LIMIT} files and folders; narrow those"
                " with **"
            )


def _entries(folder: int) -> list[os.DirEntry[str]]:
    """What is in the folder that the path descriptor stands for."""
    readable = os.open(".", READ_DIRECTORY, dir_fd=folder)
    try:
        with os.scandir(readable) as listing:
            entries = list(listing)
        for each in entries:
            each.is_dir(follow_symlinks=False)  # while it can be asked, where the kind is not told
        return entries
    finally:
        os.close(readable)


def _join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"


# -- the process -----------------------------------------------------------------------------------


def watch(watcher: Watcher, names: int, channel: socket.socket) -> None:
    """Watch until the other end of `channel` is closed, which is the session's end.

    `{"do": "scan"}` and `{"do": "change", "request"}` are answered by `{"say": "scanned"}`. What
    cannot be done is told (`{"say": "failed"}`): then the session is not safe any more.
    """
    poll = select.poll()
    poll.register(names, select.POLLIN)
    poll.register(channel, select.POLLIN)
    while True:
        for fd, _events in poll.poll():
            signal.alarm(STEP_SECONDS)
            try:
                if fd == names:
                    found = watcher.appeared()
                    if found.masked or found.marked:
                        _say(channel, "appeared", found)
                elif not _serve(watcher, channel):
                    return
            except (ViewError, OSError) as error:
                _tell(channel, {"say": "failed", "problem": str(error)})
            signal.alarm(0)


def _serve(watcher: Watcher, channel: socket.socket) -> bool:
    data, descriptors, _flags, _address = socket.recv_fds(channel, MESSAGE_BYTES, 1)
    if not data:
        return False
    message = json.loads(data)
    if message["do"] == "change":
        with os.fdopen(descriptors[0], "rb") as file:
            file.seek(0)
            found = watcher.change(WatchRequest.from_json(file.read()))
    else:
        found = watcher.scan()
    _say(channel, "scanned", found)
    return True


def _say(channel: socket.socket, what: str, found: Counts) -> None:
    fields = {"marked": found.marked, "watched": found.watched, "masked": found.masked}
    _tell(channel, {"say": what, **fields})


def _tell(channel: socket.socket, message: dict[str, object]) -> None:
    """Nobody may read: a full socket makes the watcher wait for nobody."""
    with suppress(OSError):
        channel.send(json.dumps(message).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
