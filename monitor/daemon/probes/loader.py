# SPDX-License-Identifier: Apache-2.0
"""The loader: compiles the probes for this kernel, attaches them, pins everything, and exits.

BCC and LLVM cost 120 MB and most of a second, so they live in this short process only. Everything
is pinned into a folder named by a digest of sources, kernel and BTF offsets; when it is there
already, nothing is done. A new version takes over the rows of the old one, is attached, and only
then the old one goes: there is no moment without enforcement. Where the rows have another layout,
running sessions are refused the network until the worker has installed them again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitor.daemon.probes import attachments, lsm, pins
from monitor.daemon.probes.attachments import (
    CALL_EXITS,
    CGROUP_PROGRAMS,
    CGROUP_TYPES,
    PROG_CGROUP_SOCK_ADDR,
    PROG_RAW_TRACEPOINT,
    PROG_TRACEPOINT,
    RAW_TRACEPOINTS,
    UNIX_PROGRAMS,
)
from monitor.daemon.probes.headers import offsets, write_stubs
from monitor.kernel import bpf, tracing
from monitor.kernel.btf import BtfError

PROBES = Path(__file__).resolve().parents[3] / "probes"
SOURCES = (
    "opens.bpf.c",
    "calls.bpf.c",
    "passing.bpf.c",  # behind those that it uses
    "process.bpf.c",
    "names.bpf.c",  # before those that use it
    "tls.bpf.c",
    "network.bpf.c",
    "packets.bpf.c",
)
MAPS = (
    "sessions",
    "events",
    "details",
    "lost",
    "seen",
    "directories",
    "prefixes",
    "ports",
    "sockets",
    "unix_paths",
    "unix_tickets",
    "earned",
    "approvals",
    "budgets",
    "usage",
    "destinations",
    "host_names",
    "tickets",
    "argument_keys",
    "named",
    "resolver",
    "flows",
    "asking",
)
# Maps whose rows a new version does not take over.
PASSING = ("events", "details", "seen", "directories", "flows", "asking")
INCLUDE = re.compile(r'#include "(\w+\.h)"')


class LoadError(Exception):
    """The probes cannot be put in place; the message says what this kernel lacks."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the loader reports: the pins' folder, whether it had to compile, and the unix hooks."""

    folder: Path
    compiled: bool
    unix_hooks: bool


def program_text() -> str:
    """All probes as one text, so that they share their maps.

    Includes are put in place here: BCC rewrites map accesses in the main file only.
    """
    included: set[str] = set()
    sources = (*SOURCES, lsm.SOURCE) if lsm.active() else SOURCES
    return offsets() + "".join(_inline(PROBES / name, included) for name in sources)


def _maps(text: str) -> tuple[str, ...]:
    """The maps of `text`, which are to be pinned."""
    return (*MAPS, *lsm.MAPS) if f'"{lsm.SOURCE}"' in text else MAPS


def _inline(path: Path, included: set[str]) -> str:
    lines = [f'#line 1 "{path.name}"']
    for number, line in enumerate(path.read_text().splitlines(), 2):
        match = INCLUDE.fullmatch(line)
        if match is None:
            lines.append(line)
        elif match[1] not in included:
            included.add(match[1])
            lines.append(_inline(PROBES / "include" / match[1], included))
            lines.append(f'#line {number} "{path.name}"')
    return "\n".join(lines) + "\n"


def version(text: str) -> str:
    """`LAYOUT-PROGRAMS`: digests of the maps' layout, and of all that the programs depend on."""
    layout = hashlib.blake2b((PROBES / "include" / "maps.h").read_bytes(), digest_size=4)
    programs = hashlib.blake2b(text.encode(), digest_size=8)
    for source in map(Path, (__file__, attachments.__file__, lsm.__file__)):
        programs.update(source.read_bytes())
    programs.update("\0".join(os.uname()).encode())
    return f"{layout.hexdigest()}-{programs.hexdigest()}"


def load(instance: str, cgroup: Path) -> Loaded:
    """Put the probes of `instance` in place, deciding for cgroups under `cgroup`."""
    tracing.mount_when_absent("bpf", tracing.BPFFS)
    tracing.mount_when_absent("tracefs", tracing.TRACEFS)
    text = program_text()
    unix_hooks = "#define OFF_bpf_sock_addr_kern_uaddrlen" in text
    root = pins.instance_folder(instance)
    root.mkdir(mode=0o700, exist_ok=True)
    folder = root / version(text)
    others = [other for other in root.iterdir() if other != folder]
    compiled = not (folder / pins.COMPLETE).exists()
    if compiled:
        _replace(folder, others, text, cgroup, unix_hooks)
    # Those of before, and of a loader that died here: with two versions in force, the worker
    # would write the tables of one and the other would refuse.
    for other in others:
        shutil.rmtree(other)
    return Loaded(folder, compiled, unix_hooks)


def _replace(folder: Path, others: list[Path], text: str, cgroup: Path, unix_hooks: bool) -> None:
    """Put the probes into `folder` and in force, with the rows of `others`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        with _call_exits() as opening:
            module = _compile(text)
            names = _maps(text)
            for name in names:
                bpf.pin(module[name].map_fd, folder / name)
            for other in others:
                _carry_over(other, folder, names)
            for name, link in _attach(module, cgroup, unix_hooks, opening.result()):
                bpf.pin(link, folder / f"link_{name}")
                os.close(link)
            if names != MAPS:
                _attach_lsm(module, folder)
        bpf.pin(module["lost"].map_fd, folder / pins.COMPLETE)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def _call_exits() -> Iterator[Future[list[tuple[str, str, int]]]]:
    """(program, call, perf event) for each of CALL_EXITS, opened while the probes compile.

    Each has to wait until every processor has noticed its tracepoint, which adds up to a second.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        opening = pool.submit(_open_call_exits)
        try:
            yield opening
        finally:
            for _program, _call, event in opening.result():
                os.close(event)


def _open_call_exits() -> list[tuple[str, str, int]]:
    opened = []
    for program, calls in CALL_EXITS.items():
        for call in calls.split():
            number = tracing.tracepoint_id("syscalls", f"sys_exit_{call}")
            if number is not None:
                opened.append((program, call, tracing.open_tracepoint(number)))
    return opened


def _compile(text: str) -> Any:
    try:
        bcc = importlib.import_module("bcc")  # here: importing it loads LLVM
    except ImportError as error:
        raise LoadError(f"BCC's Python binding is missing ({error}): install it") from error
    with tempfile.TemporaryDirectory() as stubs:
        write_stubs(Path(stubs))
        os.environ["BCC_KERNEL_SOURCE"] = stubs
        try:
            return bcc.BPF(text=text, cflags=["-Wno-everything"])
        except Exception as error:  # BCC raises bare Exception; clang's words are on stderr
            raise LoadError(f"the probes do not compile for this kernel: {error}") from error


def _attach_lsm(module: Any, folder: Path) -> None:
    """Attach and pin what this kernel takes; the other layers hold without the rest."""
    for name, link in lsm.attach(module):
        if isinstance(link, OSError):
            print(f"ri-loader: the LSM hook {name} is not used: {link.strerror}", file=sys.stderr)
            continue
        bpf.pin(link, folder / f"link_{lsm.LINK}{name}")
        os.close(link)


def _carry_over(old: Path, new: Path, names: Sequence[str]) -> None:
    """Copy the rows of a complete older version, where both lay them out alike."""
    same_layout = old.name.partition("-")[0] == new.name.partition("-")[0]
    if not same_layout or not (old / pins.COMPLETE).exists():
        return
    for name in names:
        if name in PASSING or not (old / name).exists():
            continue
        source, target = bpf.Map.pinned(old / name), bpf.Map.pinned(new / name)
        for key in source:
            value = source.lookup(key)
            if value is not None:
                target.update(key, value)
        source.close()
        target.close()


def _attach(
    module: Any, cgroup: Path, unix_hooks: bool, call_exits: list[tuple[str, str, int]]
) -> Iterator[tuple[str, int]]:
    """Attach every program; yields (name, link descriptor) for pinning."""
    for name, tracepoint in RAW_TRACEPOINTS.items():
        yield name, bpf.open_raw_tracepoint(tracepoint, _program(module, name, PROG_RAW_TRACEPOINT))
    if "openat" not in (call for _name, call, _event in call_exits):
        raise LoadError("this kernel has no system call tracepoints (CONFIG_FTRACE_SYSCALLS)")
    for name, call, event in call_exits:
        program = _program(module, name, PROG_TRACEPOINT)
        link = bpf.create_link(program, event, bpf.BPF_PERF_EVENT, f"sys_exit_{call}")
        yield f"{name}_{call}", link
    target = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        programs = CGROUP_PROGRAMS | (UNIX_PROGRAMS if unix_hooks else {})
        for name, attach_type in programs.items():
            kind = CGROUP_TYPES.get(name, PROG_CGROUP_SOCK_ADDR)
            program = _program(module, name, kind, attach_type)
            yield name, bpf.create_link(program, target, attach_type, f"{name} at {cgroup}")
    finally:
        os.close(target)


def _program(module: Any, name: str, kind: int, attach_type: int = -1) -> int:
    try:
        return int(module.load_func(name, kind, attach_type=attach_type).fd)
    except Exception as error:  # BCC raises bare Exception; the verifier's log is on stderr
        raise LoadError(f"this kernel refuses the probe {name}: {error}") from error


def main() -> int:
    parser = argparse.ArgumentParser(prog="ri-loader", description=__doc__)
    parser.add_argument("--instance", default="ri")
    parser.add_argument("--cgroup", type=Path, help="root cgroup of the instance")
    arguments = parser.parse_args()
    from monitor.kernel.cgroup import instance_root

    try:
        cgroup = arguments.cgroup or instance_root(arguments.instance)
        loaded = load(arguments.instance, cgroup)
    except (LoadError, BtfError, OSError) as error:
        print(f"ri-loader: {error}", file=sys.stderr)
        return 1
    unix = "" if loaded.unix_hooks else ", no unix socket hooks (they need Linux 6.7)"
    print(f"{'compiled' if loaded.compiled else 'present'} {loaded.folder}{unix}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
