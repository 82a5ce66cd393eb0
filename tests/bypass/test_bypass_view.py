# SPDX-License-Identifier: Apache-2.0
"""A service's socket under other names: row 17. tests/host/view attacks the mounts themselves."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.prove.case import PYTHON
from tests.bypass.conftest import PROFILE, Scene
from tests.bypass.test_bypass_catalogue import last_record
from tests.support.daemon import wait_until

SOCKET = Path("/run/ri-test-engine.sock")


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
