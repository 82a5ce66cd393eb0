# SPDX-License-Identifier: Apache-2.0
"""Files that are denied or asked about and appear after launch, and floods: rows 53 to 55, 66."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitor.prove.case import PYTHON
from tests.bypass.conftest import FILES_PROFILE, Scene
from tests.bypass.test_bypass_catalogue import REFUSED
from tests.support.daemon import wait_until

ASKING = """\
  ask: ["{workspace}/own"]
limits: {ask_timeout: 2s, asks_per_minute: 100000, processes: 4096}
"""
THREADS = 3000

# Row, how the file comes to be while the session runs, its name.
APPEARING = (
    (66, "echo SECRET > late/.env", "late/.env"),
    (66, "echo SECRET > draft; mv draft late/.env", "late/.env"),
    (66, "mkdir ../out; echo SECRET > ../out/.env; mv ../out late/", "late/out/.env"),
    (66, "ln file late/.env", "late/.env"),
    (54, "echo SECRET > draft; mv draft .env", ".env"),
    (54, "rm sub/.env; echo SECRET > sub/.env", "sub/.env"),
    (55, "mv late aside; mkdir late; echo SECRET > late/.env", "late/.env"),
    (55, "mv sub aside; mkdir sub; echo SECRET > sub/.env", "sub/.env"),
)


@pytest.mark.parametrize(("row", "script", "name"), APPEARING)
@pytest.mark.parametrize("observe", [False, True], ids=["governed", "observed"])
def test_what_appears_is_denied(
    scene: Scene, repository: Path, row: int, script: str, name: str, observe: bool
) -> None:
    scene.bare(["mkdir", str(repository / "late")])
    command = [PYTHON, f"{scene.words['programs']}/wait_and_read.py", "flag", name]
    process = scene.daemon.spawn("files", command, cwd=repository, observe=observe)
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    done = scene.bare(["sh", "-ec", f"cd {repository}; {script}; sleep 0.3; : > flag"])
    assert done.returncode == 0, done.stderr
    output, errors = process.communicate(timeout=20)
    if observe:
        assert output.startswith("DONE"), errors
        return
    assert process.returncode == REFUSED, f"{row}: {output}{errors}"
    assert output.split()[1] in {"EACCES", "EPERM"}
    wait_until(lambda: _told(scene, str(repository / name)))


def _told(scene: Scene, path: str) -> bool:
    records = scene.daemon.records(verb="file.open", verdict="deny")
    return any(path in each["object"] for each in records)


@pytest.mark.parametrize("observe", [False, True], ids=["governed", "observed"])
def test_a_flood_of_opens_lets_none_through(scene: Scene, repository: Path, observe: bool) -> None:
    """Row 53: what waits is bounded, what comes past that is refused, and none is let in."""
    text = FILES_PROFILE.rstrip("\n") + "\n" + ASKING
    scene.daemon.profile("flood", text)
    scene.bare(["sh", "-c", f"echo asked > {repository}/own"])
    command = [PYTHON, f"{scene.words['programs']}/flood_opens.py", f"{repository}/own"]
    done = scene.daemon.exec("flood", [*command, str(THREADS)], cwd=repository, observe=observe)
    if observe:
        assert done.stdout.startswith("DONE"), done.stderr
    else:
        assert done.stdout == "REFUSED all\n", done.stderr
