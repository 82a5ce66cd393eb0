# SPDX-License-Identifier: Apache-2.0
"""rictl doctor --prove: known ways out of a sandbox are tried in sessions of this host."""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monitor.cli import console
from monitor.cli.client import Client
from monitor.cli.failure import CommandError, UsageError

if TYPE_CHECKING:
    from monitor.prove.attempts import Outcome

NOBODY = "nobody"
ENDING = (signal.SIGTERM, signal.SIGHUP)


def prove(client: Client, user: str | None, rows: Sequence[int], as_json: bool) -> bool:
    """Try them all, or those of `rows`, and print what came of each; whether all were closed."""
    from monitor.prove.attempts import FAILURES, Attempts
    from monitor.prove.catalogue import CASES
    from monitor.prove.scene import opened

    account = _account(user)
    cases = [case for case in CASES if not rows or case.row in rows]
    for row in rows:
        if row not in {case.row for case in cases}:
            raise UsageError(f"no way out is tried under the row {row}")
    client.get("/v1/status")  # before anything is made: is the daemon there

    def records(agent: str, verb: str, verdict: str) -> Sequence[Mapping[str, Any]]:
        wanted = {"agent": agent, "verb": verb, "verdict": verdict}
        return list(client.get("/v1/records", wanted)["records"])

    if console.is_terminal() and not as_json:
        console.note(f"{len(cases)} known ways out are tried, as {account.pw_name}")
    with _ended_in_order(), opened(account.pw_uid, account.pw_gid, Path(client.socket)) as scene:
        outcomes = list(Attempts(scene, client.socket, account, records).run(cases))
    failed = [each for each in outcomes if each.result in FAILURES]
    if as_json:
        console.document({"attempts": [_document(each) for each in outcomes], "ok": not failed})
    else:
        _print(outcomes, failed)
    return not failed


def _account(user: str | None) -> pwd.struct_passwd:
    """Whom the sessions run as."""
    if os.geteuid() != 0:
        if user is not None:
            raise UsageError("only root can try as another user")
        return pwd.getpwuid(os.geteuid())
    try:
        account = pwd.getpwnam(user or NOBODY)
    except KeyError as error:
        raise UsageError(f"there is no user {user or NOBODY}", "name one: --user NAME") from error
    if account.pw_uid == 0:
        raise UsageError("root is refused less than others: name an ordinary user")
    return account


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """A signal that would end us without a word lets us clean up first."""

    def end(number: int, _frame: object) -> None:
        raise CommandError(f"ended by {signal.Signals(number).name}; what was made is removed")

    before = {number: signal.signal(number, end) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _document(outcome: Outcome) -> dict[str, Any]:
    case = outcome.case
    return {
        "row": case.row,
        "technique": case.title,
        "source": case.source,
        "result": outcome.result.value,
        "outcome": outcome.told,
        "record": outcome.record or None,
        "mechanism": outcome.mechanism or None,
        "unrecorded": case.unrecorded or None,
    }


def _print(outcomes: Sequence[Outcome], failed: Sequence[Outcome]) -> None:
    rows = [
        (
            str(each.case.row),
            each.case.title,
            each.result.value,
            each.told,
            str(each.record or "-"),
            each.mechanism or "-",
            each.case.source,
        )
        for each in outcomes
    ]
    console.table(
        ["ROW", "TECHNIQUE", "RESULT", "OUTCOME", "RECORD", "BY", "SOURCE"],
        rows,
        right={"ROW", "RECORD"},
        whole=["ROW", "RESULT", "RECORD", "BY"],
    )
    console.line()
    silent = [each for each in outcomes if each.case.unrecorded and each not in failed]
    if silent:
        console.line("closed without a record:")
        for each in silent:
            console.line(f"  {each.case.title}: {each.case.unrecorded}")
    for each in failed:
        console.line(f"{each.result.value}: {each.case.title}: {each.told}")
    tried = len(outcomes) - sum(each.result.value in {"absent", "skipped"} for each in outcomes)
    verdict = f"{len(failed)} failed" if failed else "every one was closed"
    console.line(f"{tried} of {len(outcomes)} ways out were tried: {verdict}")
