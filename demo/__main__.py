# SPDX-License-Identifier: Apache-2.0
"""The command behind `make demo`: sets the scene, runs the agent, prints the table."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from demo import account, agent, governed, records, report, repository
from demo.account import Account
from demo.failure import DemoError
from demo.outside import free_docker_socket
from demo.run import Run, perform
from demo.scene import Scene

_CACHE = governed.ROOT / ".cache" / "demo"
_USER = "ri-demo"
_EPILOG = """\
exit status: 0 the work succeeded and every attack failed (with --bare: every attack worked, but for
what the host itself refuses); 1 it did not come out so; 2 the demo could not run

The agent is mini-swe-agent as PyPI has it; its model is scripted (demo/script.py). Nothing leaves
this machine: the host the attacks post to is a network namespace. Output, records and databases of
the last run are kept in .cache/demo/last.
"""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--bare", action="store_true", help="without ri: shows the attacks are real"
    )
    parser.add_argument("--keep", action="store_true", help=f"keep the user {_USER} and its home")
    return parser.parse_args()


def _set_scene() -> tuple[Account, Scene, Path]:
    """The user, its home with an agent in it, and the repository."""
    agent_environment = agent.environment(_CACHE, "requirements-agent.txt")
    tools = agent.environment(_CACHE, "requirements-project.txt")
    user = account.create(_USER)
    scene = Scene(
        home=user.home, workspace=user.home / "project", docker_socket=free_docker_socket()
    )
    account.furnish(user, scene.secrets)
    repository.create(scene.workspace, user, scene.secrets, tools)
    return user, scene, agent.install(user, agent_environment)


def _bare(user: Account, scene: Scene, place: Path, last: Path) -> bool:
    print("mini-swe-agent, bare: working, then attacking ", end="", flush=True)
    run = perform(scene, user, place, (), last / "agent.txt")
    rows = [*report.work_rows(run), *(report.bare_row(outcome) for outcome in run.attacks)]
    report.show("Without ri", rows)
    return all(row.good for row in rows)


def _governed(user: Account, scene: Scene, place: Path, last: Path) -> bool:
    with governed.daemon(last, user.name) as daemon:
        print("mini-swe-agent under ri-exec: working, then attacking ", end="", flush=True)
        launcher = daemon.launcher("--profile", "coding-agent", "--agent", "demo/coder")
        run = perform(scene, user, place, launcher, last / "agent.txt")
        lines = daemon.rictl("log", "--json")
        (last / "records.jsonl").write_text(lines)
        log = records.parse(lines)
        daemon.rictl("log", "verify")
    rows = [
        *report.work_rows(run),
        *(report.governed_row(outcome, log) for outcome in run.attacks),
    ]
    report.show("Under ri-exec --profile coding-agent", rows)
    _say_rest(run, log)
    return all(row.good for row in rows)


def _say_rest(run: Run, log: list[records.Record]) -> None:
    refused = sum(record.count for record in log if record.refused)
    print(
        f"{len(log)} records, {refused} refusals in all, hash chain verified; numbers in [] are for"
        f" `rictl explain`. The agent's exit status: {run.status}."
    )


def main() -> int:
    arguments = _arguments()
    if os.geteuid() != 0:
        print("demo: must be started as root (sudo make demo)", file=sys.stderr)
        return 2
    last = _CACHE / "last"
    shutil.rmtree(last, ignore_errors=True)
    last.mkdir(parents=True)
    try:
        try:
            user, scene, place = _set_scene()
            good = (_bare if arguments.bare else _governed)(user, scene, place, last)
        finally:
            if not arguments.keep:
                account.remove(_USER)
    except DemoError as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 2
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
