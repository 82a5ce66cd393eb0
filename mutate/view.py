# SPDX-License-Identifier: Apache-2.0
"""Mutants of the view, of what ri-exec puts on besides, and of the read-back."""

from __future__ import annotations

from mutate.mutant import Mutant, Redefine, Swap

MOUNTS = "monitor/daemon/view/mounts.py"
CHILD = "monitor/launch/child.py"
KERNEL = "monitor/launch/kernel.py"
READBACK = "monitor/daemon/launch/readback.py"
LAUNCHES = ("tests/host/test_launch.py",)

VIEW = (
    Mutant(
        "names taken away inside an allowed tree",
        "view",
        (
            Redefine(
                MOUNTS,
                ("_Masks", "make"),
                "_Masks.make = lambda self, targets, copies: None  # type: ignore[method-assign]",
            ),
        ),
        (1, 2, 16, 54, 55),
        opens=True,
    ),
    Mutant(
        "the rest of the file system is read-only",
        "view",
        (Swap(MOUNTS, "        if request.read_only_rest:\n", "        if False:\n"),),
        (21,),
        ("tests/host/view/test_view_rest.py",),
    ),
    Mutant(
        "other processes",
        "view",
        (Swap(MOUNTS, "            if request.own_proc:\n", "            if False:\n"),),
        (31, 61),
    ),
    Mutant(
        "other terminals",
        "view",
        (Swap(MOUNTS, "            if request.own_terminals:\n", "            if False:\n"),),
        (),
        ("tests/host/view/test_view_terminals.py",),
    ),
    Mutant(
        "sockets under /run",
        "view",
        (Swap(MOUNTS, "        if request.hide_run:\n", "        if False:\n"),),
        (),
        ("tests/host/view/test_view_masks.py", "tests/host/view/test_view_helper.py"),
    ),
    Mutant(
        "names that appear after launch",
        "view, fanotify",
        (
            Redefine(
                "monitor/daemon/view/watching.py",
                ("Watcher", "appeared"),
                "Watcher.appeared = lambda self: Counts()  # type: ignore[method-assign]",
            ),
        ),
        (),
        ("tests/bypass/test_bypass_opens.py",),
    ),
    Mutant(
        "no new privileges",
        "ri-exec",
        (Swap(CHILD, "        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)\n", ""),),
        (34,),
    ),
    Mutant(
        "capabilities",
        "ri-exec",
        (
            Redefine(
                KERNEL,
                ("drop_capabilities", "drop_bounding_set"),
                "def drop_capabilities() -> None:\n    return\n\n\n"
                "def drop_bounding_set() -> None:\n    return",
            ),
        ),
        (),
        LAUNCHES,
    ),
    Mutant(
        "descriptors of the caller",
        "ri-exec",
        (Swap(CHILD, "        kernel.close_on_exec(len(STANDARD))\n", ""),),
        (),
        ("tests/bypass/test_bypass_sessions.py::test_descriptors_of_the_caller_do_not_get_in",),
    ),
    Mutant(
        "a directory as standard input",
        "ri-exec",
        (
            Swap(
                CHILD, "        if stat.S_ISDIR(os.fstat(number).st_mode):\n", "        if False:\n"
            ),
        ),
        (),
        ("tests/host/test_launch_faults.py", *LAUNCHES),
    ),
    Mutant(
        "variables that change programs",
        "ri-exec",
        (
            Redefine(
                "monitor/policy/environment.py",
                ("_scrubs",),
                "def _scrubs(profile: NameFilter, name: str) -> bool:\n    return False",
            ),
        ),
        (),
        ("tests/unit/test_policy_environment.py",),
    ),
    Mutant(
        "what the child says that it wears",
        "read-back",
        (
            Redefine(
                READBACK,
                ("check", "NotWorn"),
                "_check = check\n\n\n"
                "def check(pid: int, expected: Expected) -> dict[str, Any]:\n"
                "    try:\n        return _check(pid, expected)\n"
                "    except NotWorn:\n        return {}",
            ),
        ),
        (),
        ("tests/host/test_launch_faults.py",),
    ),
)
