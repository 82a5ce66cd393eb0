# SPDX-License-Identifier: Apache-2.0
"""Denied and read-only files inside a writable tree, in real sessions: rows 16, 17, 54 and 55.

tests/host/view attacks the mounts by themselves; here the records must say who refused.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bypass.catalogue import PYTHON
from tests.bypass.conftest import PROFILE, Scene
from tests.bypass.test_bypass_catalogue import REFUSED, last_record
from tests.support.daemon import wait_until

SOCKET = Path("/run/ri-test-engine.sock")

# Row, operation and names, the errno, the record's verb.
CASES = (
    (16, "create .git/hooks/post-commit", "EROFS", "file.write"),
    (16, "write .git/config", "EROFS", "file.write"),
    (16, "rename own .git/config", "EXDEV", "file.rename"),
    (54, "read .env", "EACCES", "file.open"),
    (54, "read sub/.env", "EACCES", "file.open"),
    (54, "truncate .env", "EACCES", "file.truncate"),
    (54, "remove .env", "EBUSY", "file.unlink"),
    (54, "rename .env copy", "EBUSY", "file.rename"),
    (54, "rename own .env", "EBUSY", "file.rename"),
    (54, "link .env copy", "EXDEV", "file.link"),
    (55, "rename .git aside", "EBUSY", "file.rename"),
    (55, "rename sub aside", "EBUSY", "file.rename"),
)


@pytest.mark.parametrize(("row", "operation", "errno", "verb"), CASES)
def test_what_is_taken_away_stays_away(
    scene: Scene, repository: Path, row: int, operation: str, errno: str, verb: str
) -> None:
    scene.bare(["sh", "-c", f"echo mine > {repository}/own"])
    way, *names = operation.split()
    paths = [str(repository / name) for name in names]
    command = [PYTHON, f"{scene.words['programs']}/change_name.py", way, *paths]
    before = last_record(scene)
    governed = scene.daemon.exec("files", command, cwd=repository)
    assert governed.returncode == REFUSED, f"{row}: {governed.stdout}{governed.stderr}"
    assert governed.stdout == f"REFUSED {errno}\n"
    wait_until(lambda: bool(scene.daemon.records(after=before, verb=verb, verdict="deny")))
    records = scene.daemon.records(after=before, verb=verb, verdict="deny")
    assert {record["mechanism"] for record in records} == {"view"}
    assert all("{workspace}" in record["rule"] for record in records)
    free = scene.daemon.exec("files", command, cwd=repository, observe=True)
    assert free.stdout.startswith("DONE"), free.stdout


@pytest.fixture
def engine() -> Iterator[None]:
    """A service that anyone may talk to, as a container engine's is to its group."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(SOCKET))
        SOCKET.chmod(0o666)
        server.listen(16)
        yield
        SOCKET.unlink()


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("name", [str(SOCKET), f"/var{SOCKET}", f"/run/../run/{SOCKET.name}"])
def test_a_service_s_socket_is_out_of_reach(scene: Scene, name: str) -> None:
    command = [PYTHON, f"{scene.words['programs']}/connect_path.py", name]
    before = last_record(scene)
    governed = scene.daemon.exec(PROFILE, command, cwd=scene.workspace)
    assert governed.stdout == "REFUSED EPERM\n", governed.stderr
    wait_until(lambda: bool(scene.daemon.records(after=before, verb="net.unix", verdict="deny")))
    free = scene.daemon.exec(PROFILE, command, cwd=scene.workspace, observe=True)
    assert free.stdout.startswith("DONE"), free.stdout
