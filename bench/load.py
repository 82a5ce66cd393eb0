# SPDX-License-Identifier: Apache-2.0
"""The loads and what is asked of each: which ratio against which column, or how much added."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.corpus import Corpus


@dataclass(frozen=True, slots=True)
class Load:
    """`argv` prints nanoseconds per time; `timed_outside`: what the whole command takes instead.

    `asked` is the highest ratio to the column `against`, or, where `added`, the most milliseconds
    above it.
    """

    name: str
    argv: tuple[str, ...]
    against: str
    asked: float
    added: bool = False
    timed_outside: bool = False
    unit: str = "us"


def launches() -> tuple[Load, ...]:
    """/bin/true through each wrapper, the start of the wrapper included."""
    return (
        Load(
            "launch /bin/true", ("/bin/true",), "bare", 20.0,
            added=True, timed_outside=True, unit="ms",
        ),
    )  # fmt: skip


def operations(programs: Path, corpus: Corpus, port: int) -> tuple[Load, ...]:
    """Single operations, many times each."""
    loads = str(programs / "loads")
    return (
        Load("open, one file", (loads, "open-one", str(corpus.one_file)), "landlock", 1.20),
        Load("open, 20,000 files", (loads, "open-many", str(corpus.tree)), "landlock", 1.20),
        Load("fork + exec", (loads, "fork-exec", "/bin/true"), "bare", 1.05),
        Load("TCP connect", (loads, "tcp-connect", str(port)), "bare", 1.05),
        Load("UDP sendto", (loads, "udp-sendto", str(port)), "bare", 1.20),
    )


def counted(programs: Path, port: int, how: str) -> tuple[Load, ...]:
    """What the network costs in a session with labels or budgets, against one without."""
    loads = str(programs / "loads")
    return (
        Load(f"TCP connect, {how}", (loads, "tcp-connect", str(port)), "ri-exec", 1.15),
        Load(f"UDP sendto, {how}", (loads, "udp-sendto", str(port)), "ri-exec", 1.25),
    )


def starts(programs: Path) -> tuple[Load, ...]:
    """What a start costs where each is decided on by its arguments."""
    name = "fork + exec, argument rules"
    return (Load(name, (str(programs / "loads"), "fork-exec", "/bin/true"), "bare", 1.20),)


def starts_while_recording(programs: Path, corpus: Corpus) -> tuple[Load, ...]:
    """The same at its slowest, while 10,000 opens a second are recorded."""
    loads = programs / "loads"
    script = (
        f"{loads} open-rate {corpus.tree} 10000 30 > /dev/null & sleep 0.5;"
        f" {loads} fork-exec-slow /bin/true; status=$?; kill $!; exit $status"
    )
    name = "fork + exec p99, 10,000 records/s"
    argv = ("/bin/sh", "-c", script)
    return (Load(name, argv, "every", 1.0, added=True, unit="ms"),)


def programs_of_people(programs: Path, corpus: Corpus) -> tuple[Load, ...]:
    """What agents really run, once per session."""
    once = (str(programs / "loads"), "once")
    make = ("make", "-B", "-s", "-j2", "-C", str(corpus.project))
    git = ("git", "--no-optional-locks", "-C", str(corpus.workspace), "status", "--porcelain")
    ripgrep = ("rg", "--no-config", "--count", "folder 77", str(corpus.tree))
    return (
        Load("make -j2", (*once, *make), "bare", 1.03, unit="ms"),
        Load("git status, 20,000 files", (*once, *git), "landlock", 1.05, unit="ms"),
        Load("ripgrep, 20,000 files", (*once, *ripgrep), "landlock", 1.05, unit="ms"),
    )


def outsiders(programs: Path, corpus: Corpus, port: int) -> tuple[Load, ...]:
    """What processes outside of any session pay, against a host without the daemon."""
    loads = str(programs / "loads")
    return (
        Load("getpid", (loads, "getpid"), "off", 1.30),
        Load("open, one file", (loads, "open-one", str(corpus.one_file)), "off", 1.02),
        Load("open, 20,000 files", (loads, "open-many", str(corpus.tree)), "off", 1.02),
        Load("fork + exec", (loads, "fork-exec", "/bin/true"), "off", 1.02),
        Load("TCP connect", (loads, "tcp-connect", str(port)), "off", 1.02),
        Load("UDP sendto", (loads, "udp-sendto", str(port)), "off", 1.02),
    )
