# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the view's tests: a repository to attack, and nothing left behind."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from monitor.daemon.view import viewing
from tests.support.daemon import User
from tests.support.views import SECRET, as_user


@pytest.fixture(scope="session")
def user(make_user: Callable[[], User]) -> User:
    """A user of these tests' own: programs read settings that other modules leave in a home."""
    return make_user()


@pytest.fixture(scope="module")
def template(user: User) -> Iterator[Path]:
    """A repository with a secret, made once."""
    folder = user.home / "view-template"
    script = f"""
set -e
git init -q {folder}; cd {folder}
git config user.email a@example; git config user.name a
echo 1 > f; mkdir -p deep/er/private tools; echo '{SECRET}' > .env
cp .env deep/er/.env; cp .env deep/er/private/key; cp /bin/true tools/curl
git add f; git commit -qm a
"""
    as_user(user, script)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def workspace(user: User, template: Path) -> Iterator[Path]:
    folder = user.home / "view-work"
    as_user(user, f"cp -a {template} {folder}")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module", autouse=True)
def helper() -> Iterator[None]:
    viewing.prepare()
    yield
    viewing.finish()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """The host's mounts and the worker's descriptors are the same after every test."""
    gc.collect()  # what other modules' tests still hold
    table = Path("/proc/self/mountinfo").read_text()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert Path("/proc/self/mountinfo").read_text() == table
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors
