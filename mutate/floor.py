# SPDX-License-Identifier: Apache-2.0
"""Mutants of the floor: each refusal of the system call filter, and Landlock, taken away alone."""

from __future__ import annotations

from collections.abc import Iterator

from monitor.policy.floor_rules import STANDARD
from monitor.policy.floor_strict import STRICT
from mutate.mutant import Mutant, Redefine, Swap

RULES = "monitor/policy/floor_rules.py"
STRICT_RULES = "monitor/policy/floor_strict.py"
LAUNCH = "monitor/launch/kernel.py"
ALLOW = 0x7FFF0000  # uapi/linux/seccomp.h: SECCOMP_RET_ALLOW
UNIT = ("tests/unit/test_policy_floor.py",)
# Rows that a call's refusal closes.
ROWS = {
    "io_uring_setup": (9,),
    "bpf": (35,),
    "userfaultfd": (32,),
    "keyctl": (35, 58),
    "seccomp": (39,),
    "ptrace": (31,),
    "prlimit64": (56,),
    "setpriority": (56,),
    "ioprio_set": (56,),
    "sched_setaffinity": (56,),
    "shmget": (58,),
    "clone3": (33,),
    "clone": (33, 59),
    "open": (57,),
    "openat": (57,),
    "ioctl": (11, 57),
    "fchmodat2": (57,),
    "execveat": (30,),
    "setsockopt": (50,),
    "memfd_create": (30,),
}


def _refusals() -> Iterator[Mutant]:
    """Every refusal alone, which must show in the unit tests; a call's together, in sessions."""
    for path, name, refusals in ((RULES, "STANDARD", STANDARD), (STRICT_RULES, "STRICT", STRICT)):
        places: dict[str, list[int]] = {}
        for place, refusal in enumerate(refusals):
            places.setdefault(refusal.names, []).append(place)
            code = f"{name} = (*{name}[:{place}], *{name}[{place + 1} :])"
            tests = " ".join(
                f"[{test.index}] {test.compare.value} {test.value:#x}/{test.mask:#x}"
                for test in refusal.tests
            )
            shown = f"{_shown(refusal.names)} {tests}".strip()
            yield Mutant(shown, f"seccomp {name.lower()}", (_without(path, name, code),), (), UNIT)
        for names, at in places.items():
            rows = ROWS.get(names.split()[0], ())
            # What strict adds to calls that no row makes is shown by the unit tests alone.
            if rows and (name == "STANDARD" or names == "memfd_create"):
                code = f"{name} = tuple(each for each in {name} if each.names != {names!r})"
                control = f"{_shown(names)}, all {len(at)}" if len(at) > 1 else _shown(names)
                edits = (_without(path, name, code),)
                yield Mutant(control, f"seccomp {name.lower()}, in sessions", edits, rows)


def _shown(names: str) -> str:
    first, *more = names.split()
    return f"{first} and {len(more)} more" if more else first


def _without(path: str, name: str, code: str) -> Redefine:
    return Redefine(path, (name,), code)


FLOOR = (
    *_refusals(),
    Mutant(
        "sockets by list",
        "seccomp",
        (
            Redefine(
                "monitor/policy/floor.py",
                ("_sockets",),
                "def _sockets(sockets: Collection[SocketRule]) -> Iterator[SyscallRule]:\n"
                "    return iter(())",
            ),
        ),
        (5, 11, 23, 49, 58),
    ),
    Mutant(
        "listen without bind",
        "seccomp",
        (Swap("monitor/policy/floor.py", "    if not listen:\n", "    if listen is None:\n"),),
        (51,),
    ),
    Mutant(
        "other architectures",
        "seccomp",
        (
            Swap(
                "monitor/kernel/seccomp.py",
                "SECCOMP_RET_KILL_PROCESS),\n        (BPF_LD_W_ABS, 0, 0, OFFSET_NR)",
                f"{ALLOW}),\n        (BPF_LD_W_ABS, 0, 0, OFFSET_NR)",
            ),
        ),
        (10,),
        opens=True,
    ),
    Mutant(
        "calls of the x32 table",
        "seccomp",
        (
            Swap(
                "monitor/kernel/seccomp.py",
                "X32_SYSCALL_BIT),\n        (BPF_RET_K, 0, 0, SECCOMP_RET_KILL_PROCESS)",
                f"X32_SYSCALL_BIT),\n        (BPF_RET_K, 0, 0, {ALLOW})",
            ),
        ),
        (10,),
        opens=True,
    ),
    Mutant(
        "calls that nobody has looked at",
        "seccomp",
        (
            Swap(
                "monitor/kernel/seccomp.py",
                "(BPF_JMP_JGE_K, 0, 1, first_unknown),",
                "(BPF_JMP_JGE_K, 0, 1, X32_SYSCALL_BIT),",
            ),
        ),
        (),
        ("tests/unit/test_kernel_seccomp.py", "tests/unit/test_policy_floor.py"),
    ),
    Mutant(
        "files that no rule lists",
        "Landlock",
        (
            Redefine(
                LAUNCH,
                ("landlock_restrict",),
                "def landlock_restrict(ruleset: int) -> None:\n    return",
            ),
        ),
        (2, 15, 18),
        opens=True,
    ),
    Mutant(
        "signals to outside",
        "Landlock scope",
        (
            Redefine(
                LAUNCH,
                ("landlock_ruleset",),
                "_whole = landlock_ruleset\n\n\n"
                "def landlock_ruleset(files: int, scopes: int) -> int:\n"
                "    return _whole(files, 0)",
            ),
        ),
        (18,),
        opens=True,
    ),
)
