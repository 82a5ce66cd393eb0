# SPDX-License-Identifier: Apache-2.0
"""The process from which the makers of views are forked: small, so that a fork costs little.

Runs as `python3 -I -S helper.py FD`; FD is a SOCK_SEQPACKET socket to the worker. Each message
carries three descriptors: the mount namespace, a file with the request, and a pipe for the answer.
A maker enters the namespace with the host's authority and reports; what it holds and where it
stands ends with it. One maker always waits, forked and warm. A maker that a file system keeps
waiting is ended by its own alarm, and is in nobody's way until then. In the namespace every path
may be the user's forgery: from the moment it has a request, a maker loads no code any more.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import socket
import sys
from pathlib import Path

MESSAGE = b"view"
DESCRIPTORS = 3
ANSWER_BYTES = 65536  # what an empty pipe takes at once
NOTE_LIMIT = 100
MAKER_SECONDS = 10
MAKER_BYTES = 1 << 30


def serve(channel: socket.socket) -> None:
    """Keep one maker waiting for a request, until the worker is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker's end is ours
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a maker
    gc.freeze()  # what is shared with the makers is not looked through in them
    while True:
        taken, tell = os.pipe()
        if os.fork() == 0:
            os.close(taken)
            _make(channel, tell)
        os.close(tell)
        with os.fdopen(taken, "rb", buffering=0) as busy:
            if not busy.read(1):
                return


def _make(channel: socket.socket, tell: int) -> None:
    """A forked maker: waits for one request, tells that it is taken, answers. Never returns."""
    try:
        gc.disable()
        os.umask(0)
        _rehearse()
        message, descriptors, _flags, _address = socket.recv_fds(
            channel, len(MESSAGE) + 1, DESCRIPTORS
        )
        if message != MESSAGE or len(descriptors) != DESCRIPTORS:
            return
        os.write(tell, b".")
        channel.close()
        _seal()
        namespace, request, answer = descriptors
        text = json.dumps(_answer(namespace, request))
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


def _answer(namespace: int, request: int) -> dict[str, object]:
    # Loaded since the rehearsal.
    from monitor.daemon.view.mounts import build
    from monitor.daemon.view.request import ViewError, ViewRequest

    try:
        size = os.fstat(request).st_size
        made = build(namespace, ViewRequest.from_json(os.pread(request, size, 0)))
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

    serve(socket.socket(fileno=int(sys.argv[1])))
