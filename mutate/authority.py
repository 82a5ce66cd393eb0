# SPDX-License-Identifier: Apache-2.0
"""Mutants of what decides who may do what: rights, grants, the API, the log, names."""

from __future__ import annotations

from mutate.mutant import Mutant, Redefine, Swap

GRANT = "monitor/identity/grant.py"
ACCESS = "monitor/daemon/api/access.py"
VERIFY = "monitor/audit/verify.py"
GRANTS = ("tests/unit/test_identity_grant.py",)

AUTHORITY = (
    Mutant(
        "who may start a session",
        "delegations",
        (
            Redefine(
                "monitor/identity/delegations.py",
                ("Delegations", "authorize"),
                "Delegations.authorize = (  # type: ignore[method-assign]\n"
                '    lambda self, request: Permission(request.profile or "", request.ttl, 0)\n)',
            ),
        ),
        (),
        ("tests/unit/test_identity_delegations.py",),
    ),
    Mutant(
        "grants that have expired",
        "Biscuit",
        (
            Redefine(
                GRANT,
                ("_check_time",),
                "def _check_time(grant: Grant, facts: Facts) -> None:\n    return",
            ),
        ),
        (),
        GRANTS,
    ),
    Mutant(
        "grants of other users and hosts",
        "Biscuit",
        (
            Redefine(
                GRANT,
                ("_authorize",),
                "def _authorize(token: Biscuit, facts: Facts) -> None:\n    return",
            ),
        ),
        (),
        GRANTS,
    ),
    Mutant(
        "sessions of other users",
        "API",
        (
            Redefine(
                ACCESS,
                ("Access", "sees"),
                "Access.sees = lambda self, caller, session: True  # type: ignore[method-assign]",
            ),
        ),
        (),
        ("tests/host/test_daemon_api.py",),
    ),
    Mutant(
        "what is for administrators",
        "API",
        (
            Redefine(
                ACCESS,
                ("Access", "require_admin"),
                "Access.require_admin = lambda self, caller: None  # type: ignore[method-assign]",
            ),
        ),
        (),
        ("tests/host/test_daemon_api.py",),
    ),
    Mutant(
        "the API is closed to sessions",
        "API",
        (
            Swap(
                "monitor/daemon/api/server.py",
                "        if inside or gone(connection):\n",
                "        if gone(connection):\n",
            ),
        ),
        (),
        ("tests/host/test_daemon_api.py",),
    ),
    Mutant(
        "records that were changed",
        "hash chain",
        (Swap(VERIFY, "    if linked != digest or record.id != number:\n", "    if False:\n"),),
        (),
        ("tests/unit/test_audit_verify.py",),
    ),
    Mutant(
        "a log that was cut off",
        "hash chain",
        (
            Redefine(
                VERIFY,
                ("_check_end",),
                "def _check_end(passed: int, known: Head | None, path: Path) -> None:\n    return",
            ),
        ),
        (),
        ("tests/unit/test_audit_verify.py",),
    ),
    Mutant(
        "names that no rule lists",
        "resolver",
        (
            Swap(
                "monitor/resolver/decision.py",
                "    return Permission(name, links) if all(links) else None\n",
                "    return Permission(name, links)\n",
            ),
        ),
        (),
        ("tests/unit/test_resolver_names.py",),
    ),
)
