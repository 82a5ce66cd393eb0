# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the host tests: a real daemon of an instance of its own, and ordinary users."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, User
from tests.support.probes import Probes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These tests drive the kernel: without root they cannot say anything.

    They share a machine with others, so one that fails has a second try, and the summary lists it
    as RERUN. What must hold each time has none: a race that is lost once is lost. Nor have the
    tests in tests/bypass.
    """
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        if os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="host tests need root"))
        if "race" not in item.nodeid and item.get_closest_marker("once") is None:
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def users() -> list[User]:
    """The users that were made."""
    return []


@pytest.fixture(scope="session")
def make_user(users: list[User]) -> Iterator[Callable[[], User]]:
    """Makes users with a home each; they are removed at the end."""

    def make() -> User:
        name = f"ri-test-{secrets.token_hex(3)}"
        home = Path("/home") / name
        command = ["useradd", "--system", "--create-home", "--home-dir", str(home)]
        subprocess.run([*command, "--shell", "/bin/bash", name], check=True, capture_output=True)
        users.append(User(name))
        return users[-1]

    yield make
    for user in users:
        subprocess.run(["userdel", "--remove", user.name], capture_output=True)


@pytest.fixture(scope="session")
def user(make_user: Callable[[], User]) -> User:
    """The user whom the daemon's delegations let do everything but run as root."""
    return make_user()


@pytest.fixture(scope="session")
def stranger(make_user: Callable[[], User]) -> User:
    """A user whom no delegation names."""
    return make_user()


@pytest.fixture(scope="module", autouse=True)
def tidy_homes(users: list[User]) -> Iterator[None]:
    """Leave nothing in the users' homes for the next module."""
    yield
    skeleton = {each.name for each in Path("/etc/skel").iterdir()}
    for entry in (each for user in users for each in user.home.iterdir()):
        if entry.name in skeleton:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


@pytest.fixture
def make_daemon(user: User) -> Iterator[Callable[..., Daemon]]:
    """Makes daemons that the test starts, stops and kills; they are cleaned away after it."""
    made: list[Daemon] = []

    def make(**config: Any) -> Daemon:
        made.append(Daemon(user, config))
        return made[-1]

    yield make
    for each in made:
        each.clean()


@pytest.fixture(scope="module")
def daemon(user: User) -> Iterator[Daemon]:
    """One running daemon for all tests of a module."""
    made = Daemon(user)
    try:
        made.start()
        yield made
    finally:
        made.clean()


@pytest.fixture(scope="module")
def probes() -> Iterator[Probes]:
    """The probes of an instance of its own, without a daemon."""
    made = Probes()
    try:
        yield made
    finally:
        made.clean()
