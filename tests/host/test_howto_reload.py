# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/howto-reload.md, run as they are written there."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.daemon import Daemon, User, wait_until

TEXT = (ROOT / "docs" / "howto-reload.md").read_text(encoding="utf-8")
LINES = re.findall(r"^\$ (.+)$", TEXT, re.MULTILINE)


def block(language: str) -> str:
    return str(re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)[0])


@pytest.fixture
def daemon(user: User) -> Iterator[Daemon]:
    made = Daemon(user)
    (made.profiles / "night-agent.yaml").write_text(block("yaml"))
    try:
        made.start()
        yield made
    finally:
        made.clean()


def line(start: str) -> list[str]:
    (found,) = [each for each in LINES if each.startswith(start)]
    return shlex.split(found)


def rictl(daemon: Daemon, start: str, cwd: Path | None = None) -> str:
    words = line(start)[1:]
    if cwd is not None:
        words[-1] = str(cwd / words[-1])
    done = daemon.rictl(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ri_exec(daemon: Daemon, start: str) -> subprocess.Popen[str]:
    words = line(start)
    split = words.index("--")
    return daemon.spawn(None, words[split + 1 :], *words[1:split])


def test_it_goes_as_it_is_written(daemon: Daemon) -> None:
    process = ri_exec(daemon, 'ri-exec --profile night-agent --purpose "nightly check" -- sleep')
    session = daemon.launched(process)["id"]
    path = daemon.profiles / "night-agent.yaml"
    path.write_text(block("yaml").replace(', "127.0.0.1:8443"', ""))
    assert "  - network.connect: 127.0.0.1:8443" in rictl(daemon, "rictl profile diff")
    daemon.rictl("reload")
    wait_until(lambda: "night-agent" in rictl(daemon, "rictl log --verb profile.change"))
    assert f"deny     {session}" in rictl(
        daemon, "rictl signal risk-score-change agent:night-agent --score 60"
    )
    assert "60  unusual hours" in daemon.rictl("signal").stdout
    assert f"nothing  {session}" in rictl(
        daemon, "rictl signal risk-score-change agent:night-agent --score 0"
    )
    (daemon.folder / "event.json").write_text(block("json"))
    assert f"kill     {session}" in rictl(daemon, "rictl signal --file", daemon.folder)
    process.communicate(timeout=20)
    daemon.settled()
    leased = ri_exec(daemon, 'ri-exec --profile night-agent --purpose "nightly check" --lease')
    _output, errors = leased.communicate(timeout=30)
    assert leased.returncode == 0, errors


def test_all_commands_are_run() -> None:
    assert len(LINES) == 9
