# SPDX-License-Identifier: Apache-2.0
"""Mutants of what decides while a session runs: cgroup programs, packets, gate, records."""

from __future__ import annotations

from mutate.mutant import Edit, Mutant, Redefine, Swap

ATTACHMENTS = "monitor/daemon/probes/attachments.py"
JUDGING = "probes/include/judging.h"
TABLES = "tests/host/test_network_tables.py"
# Packet rules that let everything pass.
NO_PACKETS = Redefine(
    "monitor/daemon/packet_floor.py",
    ("PacketFloor", "_rules", "_apply"),
    "PacketFloor._rules = lambda self, session, wanted: EVERYTHING  # type: ignore[method-assign]",
)


def _detached(*programs: str) -> tuple[Edit, ...]:
    code = "\n".join(
        f'for _table in (CGROUP_PROGRAMS, UNIX_PROGRAMS):\n    _table.pop("{name}", None)'
        for name in programs
    )
    return (Redefine(ATTACHMENTS, ("CGROUP_PROGRAMS", "UNIX_PROGRAMS"), code),)


# Program, what it decides on, and the rows or tests that show it.
_PROGRAMS: tuple[tuple[str, str, tuple[int, ...], tuple[str, ...]], ...] = (
    ("ri_connect4", "connections over IPv4", (22, 24, 25), ()),
    ("ri_connect6", "connections over IPv6", (22, 25), ()),
    ("ri_sendmsg4", "datagrams over IPv4", (7, 22), ()),
    ("ri_sendmsg6", "datagrams over IPv6", (22,), ()),
    ("ri_bind4", "ports over IPv4", (48,), ()),
    ("ri_bind6", "ports over IPv6", (), (TABLES,)),
    ("ri_socket", "kinds of sockets", (), (TABLES,)),
    ("ri_egress", "packets that leave", (), (TABLES, "tests/host/test_session_rows.py")),
    ("ri_connect_unix", "unix sockets connected to", (4, 18), ()),
    ("ri_sendmsg_unix", "unix sockets sent to", (58,), ()),
)

LIVE = (
    *(
        Mutant(what, f"cgroup-bpf {program}", _detached(program), rows, tests)
        for program, what, rows, tests in _PROGRAMS
    ),
    # What stands under them is seen when both are off: the rows must succeed then.
    *(
        Mutant(
            what,
            f"cgroup-bpf {program} and nftables",
            (*_detached(program), NO_PACKETS),
            rows,
            opens=True,
        )
        for program, what, rows, _tests in _PROGRAMS[:4]
    ),
    Mutant(
        "packets beneath the cgroup programs",
        "nftables",
        (NO_PACKETS,),
        (),
        ("tests/host/test_packet_floor.py",),
    ),
    Mutant(
        "every link of a chain must allow",
        "cgroup-bpf",
        (
            Swap(
                JUDGING,
                "\t\t\tif (i >= (session)->policy_count)\t\t\t\\\n",
                "\t\t\tif (i >= 1)\t\t\t\\\n",
            ),
        ),
        (),
        ("tests/host/test_enforce_chain.py", TABLES),
    ),
    Mutant(
        "authority that was taken back",
        "cgroup-bpf",
        (Swap(JUDGING, "session->flags & RI_REVOKED", "session->flags & 0"),),
        (),
        ("tests/host/test_session_rows.py", TABLES),
    ),
    Mutant(
        "authority that has expired",
        "cgroup-bpf",
        (
            Swap(
                JUDGING,
                "if (session->expires && bpf_ktime_get_boot_ns() >= session->expires)",
                "if (0)",
            ),
        ),
        (),
        (TABLES, "tests/host/test_session_rows.py"),
    ),
    Mutant(
        "conditions that do not hold",
        "cgroup-bpf",
        (Swap(JUDGING, "if (session->flags & RI_PAUSED)", "if (0)"),),
        (),
        ("tests/host/test_conditions.py", "tests/host/test_session_rows.py"),
    ),
    Mutant(
        "labels on the network",
        "cgroup-bpf",
        (Swap(JUDGING, "return !row || row->time;", "return false;"),),
        (),
        ("tests/host/test_network_labels.py",),
    ),
    Mutant(
        "connections that are asked about",
        "cgroup-bpf",
        (
            Swap(
                JUDGING,
                "is_approved(to, decision->policy) ? RI_ALLOWED : RI_UNANSWERED",
                "RI_ALLOWED",
            ),
        ),
        (),
        ("tests/host/test_network_asks.py",),
    ),
    Mutant(
        "budgets of the network",
        "cgroup-bpf",
        (
            Swap(
                "probes/include/spending.h",
                "\t\tdecision->cause = RI_OVER_BUDGET;\n",
                "\t\tdecision->cause = RI_ALLOWED;\n",
            ),
        ),
        (),
        ("tests/host/test_network_budgets.py",),
    ),
    Mutant(
        "look-ups by other resolvers",
        "cgroup-bpf",
        (
            Swap(
                "probes/network.bpf.c",
                "\treturn has_names(session) && !standing(session) && !is_narrowed(session);\n",
                "\treturn false;\n",
            ),
        ),
        (),
        ("tests/host/test_names_sessions.py",),
    ),
    Mutant(
        "addresses whose time is over",
        "cgroup-bpf",
        (Swap(JUDGING, "\t\tif (span->until > now) {\n", "\t\tif (1) {\n"),),
        (),
        ("tests/host/test_names_rows.py", "tests/host/test_names_sessions.py"),
    ),
    Mutant(
        "servers' names in TLS",
        "cgroup-bpf",
        (Swap(JUDGING, "\t\tdecision->host = true;\n", "\t\tdecision->host = false;\n"),),
        (),
        ("tests/host/test_tls_hellos.py",),
    ),
    Mutant(
        "programs that differ from what was decided on",
        "ticket",
        (
            Swap(
                "probes/process.bpf.c",
                "\tif (session->flags & RI_OBSERVE || !(session->flags & RI_GATED))\n",
                "\tif (1)\n",
            ),
        ),
        (),
        ("tests/host/test_gate_execs.py", "tests/host/test_exec_names.py"),
    ),
    Mutant(
        "program starts by their arguments",
        "gate",
        (
            Swap(
                "monitor/daemon/gate/execs.py",
                "    if refused is not None:\n",
                "    if refused is ...:\n",
            ),
        ),
        (),
        ("tests/host/test_gate_execs.py",),
    ),
    Mutant(
        "opens that are asked about",
        "fanotify",
        (
            Redefine(
                "monitor/daemon/gate/opens.py",
                ("Opens", "_rules"),
                "Opens._rules = lambda self, waits: []  # type: ignore[method-assign]",
            ),
        ),
        (),
        ("tests/host/test_gate_opens_sessions.py",),
    ),
    Mutant(
        "connections at a session's end",
        "sock_diag",
        (
            Redefine(
                "monitor/kernel/sockdiag.py",
                ("destroy_sockets",),
                "def destroy_sockets(*cgroups: int) -> int:\n    return 0",
            ),
        ),
        (),
        ("tests/bypass/test_bypass_sessions.py", "tests/host/test_session_ending.py"),
    ),
    Mutant(
        "connections that a changed profile takes away",
        "sock_diag",
        (
            Redefine(
                "monitor/daemon/cutting.py",
                ("cut_once",),
                "def cut_once(cgroup: int, old: Rules, new: Rules) -> int:\n    return 0",
            ),
        ),
        (),
        ("tests/host/test_reload.py",),
    ),
    Mutant(
        "processes at a session's end",
        "cgroup",
        (
            Redefine(
                "monitor/kernel/cgroup.py",
                ("Cgroup", "kill"),
                "Cgroup.kill = lambda self: None  # type: ignore[method-assign]",
            ),
        ),
        (),
        ("tests/bypass/test_bypass_sessions.py",),
    ),
    Mutant(
        "refused calls are recorded",
        "tracepoints",
        (Redefine(ATTACHMENTS, ("CALL_EXITS",), 'CALL_EXITS["ri_refused_call_exit"] = "setns"'),),
        (9, 31),
    ),
    Mutant(
        "refused files are recorded",
        "tracepoints",
        (Redefine(ATTACHMENTS, ("CALL_EXITS",), 'CALL_EXITS["ri_path_exit"] = "creat"'),),
        (15, 54),
    ),
)
