# SPDX-License-Identifier: Apache-2.0
"""The keeper: holds the descriptors that must outlive the worker, and starts the worker again.

Runs as `python3 -I -S keeper.py SETTINGS` and imports the standard library only, so that there is
little in it that can fail. SETTINGS is JSON: `loader` and `worker` (argument lists), `environment`,
`listen` (name to socket path), `lock`. The worker finds its end of the store as the descriptor
named by RI_KEEPER; it sends `store NAME` with a descriptor, `drop NAME`, `fetch` (answered by
`NAME` with each, then an empty message), `ready`, and `status TEXT`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any

MESSAGE_SIZE = 4096
BACKLOG = 128
STOP_SECONDS = 5
# A worker that lived this long was healthy: the next one starts at once.
HEALTHY_SECONDS = 2.0
FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0


class Keeper:
    """The store, the worker's process, and what the service manager is told."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.store: dict[str, int] = {}
        self.worker: subprocess.Popen[bytes] | None = None
        self.channel: socket.socket | None = None
        self.started = 0.0
        self.delay = 0.0
        self.was_ready = False
        self.stopping = False

    def listen(self) -> None:
        """Bind the sockets once; connections made while no worker runs wait in the backlog."""
        for name, path in self.settings["listen"].items():
            # The launch socket carries messages, the API a stream.
            kind = socket.SOCK_SEQPACKET if name == "launch" else socket.SOCK_STREAM
            listener = socket.socket(socket.AF_UNIX, kind)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            listener.bind(path)
            # Anyone may ask: each request is judged by its sender's credentials.
            os.chmod(path, 0o666)  # noqa: S103
            listener.listen(BACKLOG)
            self.store[f"listen.{name}"] = listener.detach()

    def start_worker(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = self.settings["environment"] | {"RI_KEEPER": str(theirs.fileno())}
        self.worker = subprocess.Popen(
            self.settings["worker"], env=environment, cwd="/", pass_fds=[theirs.fileno()]
        )
        theirs.close()
        self.channel = ours
        self.started = time.monotonic()

    def discard_worker(self) -> None:
        """End a worker that was never answered."""
        assert self.worker is not None
        self.worker.kill()
        self.worker.wait()

    def serve(self) -> None:
        """Answer one message of the worker's."""
        assert self.channel is not None
        message, received, _flags, _address = socket.recv_fds(
            self.channel, MESSAGE_SIZE, 1, socket.MSG_CMSG_CLOEXEC
        )
        verb, _, name = message.decode().partition(" ")
        if verb == "store":
            self.drop(name)
            self.store[name] = received.pop()
        elif verb == "drop":
            self.drop(name)
        elif verb == "fetch":
            for each, fd in self.store.items():
                socket.send_fds(self.channel, [each.encode()], [fd])
            self.channel.send(b"")
        elif verb == "ready":
            if not self.was_ready:
                print("ready", flush=True)
            self.was_ready = True
            notify("READY=1")
        elif verb == "status":
            notify(f"STATUS={name}")
        else:  # the worker is gone: its end of the pair is closed
            self.channel.close()
            self.channel = None
        for fd in received:
            os.close(fd)

    def serve_rest(self) -> None:
        """Answer what a worker that is gone had still sent: it may have stored a lifeline."""
        while self.channel and select.select([self.channel], [], [], 0)[0]:
            with contextlib.suppress(ConnectionError):
                self.serve()
        if self.channel:  # a child of the worker's holds the other end
            self.channel.close()
            self.channel = None

    def drop(self, name: str) -> None:
        fd = self.store.pop(name, None)
        if fd is not None:
            os.close(fd)

    def worker_ended(self, status: int) -> int | None:
        """Start the next worker, after a pause where they keep dying; or the keeper's status."""
        self.serve_rest()
        if self.stopping:
            return 0 if status in (0, -signal.SIGTERM) else 1
        if not self.was_ready:
            return status if status > 0 else 1
        if time.monotonic() - self.started > HEALTHY_SECONDS:
            self.delay = 0.0
        print(f"ri-monitord: the worker ended ({status}), starting it again", file=sys.stderr)
        time.sleep(self.delay)
        self.delay = min(max(self.delay * 2, FIRST_DELAY), LONGEST_DELAY)
        self.start_worker()
        return None

    def stop(self) -> None:
        self.stopping = True
        notify("STOPPING=1")
        if self.worker is not None:
            self.worker.terminate()
        signal.alarm(STOP_SECONDS)

    def run(self, wakeup: int) -> int:
        while True:
            watched = [wakeup] + ([self.channel.fileno()] if self.channel else [])
            readable, _, _ = select.select(watched, [], [])
            if self.channel and self.channel.fileno() in readable:
                with contextlib.suppress(ConnectionError):
                    self.serve()
            if wakeup not in readable:
                continue
            for number in os.read(wakeup, MESSAGE_SIZE):
                if number in (signal.SIGTERM, signal.SIGINT) and not self.stopping:
                    self.stop()
                if number == signal.SIGALRM and self.worker is not None:
                    self.worker.kill()
            status = self.worker.poll() if self.worker else None
            if status is not None:
                result = self.worker_ended(status)
                if result is not None:
                    return result


def notify(text: str) -> None:
    """sd_notify(3): tell the service manager, where there is one."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
            contextlib.suppress(OSError),
        ):
            manager.sendto(text.encode(), address.replace("@", "\0", 1))


def main() -> int:
    settings = json.loads(sys.argv[1])
    lock = os.open(settings["lock"], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"ri-monitord: {settings['lock']} is held: a daemon runs already", file=sys.stderr)
        return 1
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wakeup, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM):
        signal.signal(number, lambda _number, _frame: None)
    keeper = Keeper(settings)
    # It imports what it needs meanwhile: nothing it asks is answered before the probes are there.
    keeper.start_worker()
    loaded = subprocess.run(
        settings["loader"],
        env=settings["environment"],
        cwd="/",
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if loaded.returncode != 0:
        keeper.discard_worker()
        return loaded.returncode
    keeper.listen()
    return keeper.run(wakeup)


if __name__ == "__main__":
    sys.exit(main())
