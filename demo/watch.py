# SPDX-License-Identifier: Apache-2.0
"""Looks at a user's processes from outside: is one traced, does one hold a BPF program?"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_INTERVAL_SECONDS = 0.1


class Watch:
    """What was seen so far. The attacks hold what they got for a second, ten looks long."""

    def __init__(self, uid: int) -> None:
        self.traced = False
        self.bpf_program = False
        self._uid = uid
        self._stop = threading.Event()

    def _look(self) -> None:
        for process in Path("/proc").iterdir():
            if not process.name.isdigit():
                continue
            try:
                if process.stat().st_uid == self._uid:
                    self.traced |= _is_traced(process)
                    self.bpf_program |= _holds_bpf_program(process)
            except (FileNotFoundError, ProcessLookupError):
                continue

    def run(self) -> None:
        while not self._stop.wait(_INTERVAL_SECONDS):
            self._look()

    def stop(self) -> None:
        self._stop.set()


def _is_traced(process: Path) -> bool:
    status = (process / "status").read_text()
    return "\nTracerPid:\t0\n" not in status and "\nTracerPid:" in status


def _holds_bpf_program(process: Path) -> bool:
    # Only a descriptor of a BPF program has this field (kernel/bpf/syscall.c bpf_prog_show_fdinfo).
    return any("prog_tag:" in info.read_text() for info in (process / "fdinfo").iterdir())


@contextmanager
def watching(uid: int) -> Iterator[Watch]:
    """A thread that looks ten times a second for as long as the context lasts."""
    watch = Watch(uid)
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.stop()
        thread.join()
