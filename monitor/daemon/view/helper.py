# SPDX-License-Identifier: Apache-2.0
"""The process from which the makers of views are forked: small, so that a fork costs little.

Runs as `python3 -I -S helper.py FD`; FD is a SOCK_SEQPACKET socket to the worker. A maker enters
the namespace with the host's authority and reports; what it holds and where it stands ends with it.
One that is to watch a session's names stays as long as its channel is open, after this process
too. A few makers always wait, forked and warm. A maker that a file system keeps waiting is ended by
its own alarm, and is in nobody's way until then. In the namespace every path
may be the user's forgery: from the moment it has a request, a maker loads no code any more.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import socket
import sys
from pathlib import Path

# What a maker is asked for, and how many descriptors come with it: the mount namespace, a file with
# the request, a pipe for the answer; for a watcher its channel, the two groups and the memory too.
VIEW = b"view"
NARROW = b"narrow"
WATCH = b"watch"
DESCRIPTORS = {VIEW: 3, NARROW: 3, WATCH: 7}
ANSWER_BYTES = 65536  # what an empty pipe takes at once
NOTE_LIMIT = 100
MAKER_SECONDS = 10
# Two launches at once find enough of them.
MAKERS = 4
QUIET_SECONDS = 0.05
MAKER_BYTES = 1 << 30


def serve(channel: socket.socket) -> None:
    """Keep makers waiting for requests, until the worker is gone.

    A launch takes two, one for the view and one that watches. Those that follow are made when it is
    quiet again: while one works, another's preparing itself would hold it up.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker's end is ours
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a maker
    gc.freeze()  # what is shared with the makers is not looked through in them
    idle: list[int] = []
    while True:
        while len(idle) < MAKERS:
            idle.append(_fork(channel, idle))
        pause = None
        while idle:
            ready, _, _ = select.select(idle, [], [], pause)
            if not ready:
                break
            for taken in ready:
                idle.remove(taken)
                with os.fdopen(taken, "rb", buffering=0) as busy:
                    if not busy.read(1):
                        return
            pause = QUIET_SECONDS


def _fork(channel: socket.socket, idle: list[int]) -> int:
    """Start a maker; a descriptor that becomes readable when it is taken."""
    taken, tell = os.pipe()
    if os.fork() == 0:
        for each in (taken, *idle):
            os.close(each)
        _make(channel, tell)
    os.close(tell)
    return taken


def _make(channel: socket.socket, tell: int) -> None:
    """A forked maker: waits for one request, tells that it is taken, answers. Never returns."""
    try:
        gc.disable()
        os.umask(0)
        _rehearse()
        message, descriptors, _flags, _address = socket.recv_fds(
            channel, max(map(len, DESCRIPTORS)) + 1, max(DESCRIPTORS.values())
        )
        if len(descriptors) != DESCRIPTORS.get(message, -1):
            return
        os.write(tell, b".")
        os.close(tell)
        channel.close()
        _seal()
        namespace, request, answer, *more = descriptors
        if message == WATCH:
            _watch(namespace, request, answer, more)
            return
        text = json.dumps(_answer(namespace, request, message == NARROW))
        if len(text) > ANSWER_BYTES:
            text = json.dumps({"problem": "cannot make the view: its report is too long"})
        os.write(answer, text.encode())
    finally:
        os._exit(0)


def _seal() -> None:
    """Bounds for work among files that a user made up: no import, no core file, an end."""
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path.clear()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MAKER_BYTES, MAKER_BYTES))
    signal.alarm(MAKER_SECONDS)


def _rehearse() -> None:
    """Touch what a view touches, so that its pages are this process's own before a request."""
    from monitor.daemon.view.mounts import rehearse

    rehearse()


def _watch(namespace: int, request: int, answer: int, more: list[int]) -> None:
    """Be a session's watcher: answer when all is marked, then stay."""
    from monitor.daemon.view.request import ViewError, WatchRequest
    from monitor.daemon.view.watching import Watcher, watch
    from monitor.kernel.libc import CLONE_NEWNS, setns

    connection, opens, names, memory = more
    watcher = None
    try:
        setns(namespace, CLONE_NEWNS)
        size = os.fstat(request).st_size
        wanted = WatchRequest.from_json(os.pread(request, size, 0))
        made = Watcher(wanted, opens, names, memory)
        found = made.scan()
        told = {"marked": found.marked, "watched": found.watched, "masked": found.masked}
        text = json.dumps({**told, "notes": [note[:512] for note in found.notes[:NOTE_LIMIT]]})
        watcher = made
    except ViewError as error:
        text = json.dumps({"problem": str(error)})
    except Exception as error:  # noqa: BLE001 - as in _answer
        text = json.dumps({"problem": f"cannot watch files: {type(error).__name__}: {error}"})
    signal.alarm(0)
    os.write(answer, text.encode())
    for fd in (namespace, request, answer):
        os.close(fd)
    if watcher is not None:
        watch(watcher, names, socket.socket(fileno=connection))


def _answer(namespace: int, request: int, narrow: bool) -> dict[str, object]:
    # Loaded since the rehearsal.
    from monitor.daemon.view.mounts import build
    from monitor.daemon.view.mounts import narrow as narrowed
    from monitor.daemon.view.request import ViewError, ViewRequest

    try:
        size = os.fstat(request).st_size
        wanted = ViewRequest.from_json(os.pread(request, size, 0))
        made = narrowed(namespace, wanted) if narrow else build(namespace, wanted)
    except ViewError as error:
        return {"problem": str(error)}
    except Exception as error:  # noqa: BLE001 - a process's edge: told to the worker, which refuses
        return {"problem": f"cannot make the view: {type(error).__name__}: {error}"}
    notes = [note[:512] for note in made.notes[:NOTE_LIMIT]]
    if len(made.notes) > NOTE_LIMIT:
        notes.append(f"{len(made.notes) - NOTE_LIMIT} more of the kind")
    return {"masked": made.masked, "notes": notes}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    # Everything a maker needs is loaded before the first fork.
    from monitor.daemon.view import mounts as view_mounts  # noqa: F401
    from monitor.daemon.view import watching as view_watching  # noqa: F401

    serve(socket.socket(fileno=int(sys.argv[1])))
