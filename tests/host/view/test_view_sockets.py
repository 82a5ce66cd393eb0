# SPDX-License-Identifier: Apache-2.0
"""Sockets that the view hides where the kernel decides on no names: what is bound and unlisted."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from monitor.policy.plan import HostFeatures
from tests.support.daemon import User
from tests.support.profiles import compiled, profile
from tests.support.sides import area
from tests.support.views import inside, plan_of

COMMAND = """
for name in {names}; do
    python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])' \
        $name 2>/dev/null && echo $name
done
true
"""


@pytest.fixture
def names(user: User, workspace: Path) -> Iterator[list[str]]:
    """Servers' sockets: outside of all that is granted, in the workspace, in /tmp."""
    with ExitStack() as stack:
        folder = stack.enter_context(area(user))
        made = [folder / "one", folder / "deep/two", workspace / "three",
                Path(f"/tmp/ri-{secrets.token_hex(4)}")]  # fmt: skip
        for path in made:
            path.parent.mkdir(exist_ok=True)
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.bind(str(path))
            stack.callback(path.unlink, missing_ok=True)
            path.chmod(0o666)
            sock.listen(8)
        yield [str(path) for path in made]


def test_only_what_is_listed_is_there(user: User, workspace: Path, names: list[str]) -> None:
    command = COMMAND.format(names=" ".join(names))
    listed = plan_of(workspace, hide_run=True, hide_sockets=True, sockets=(names[1],))
    assert inside(user, workspace, listed, command).split() == [names[1]]
    none = plan_of(workspace, hide_run=True, hide_sockets=True)
    assert inside(user, workspace, none, command).split() == []
    # Without that, and without a view, all of them are.
    shown = plan_of(workspace, hide_run=True)
    assert inside(user, workspace, shown, command).split() == names
    assert inside(user, workspace, None, command).split() == names


def test_a_name_by_way_of_a_link_is_hidden(user: User, workspace: Path, names: list[str]) -> None:
    """A server names its socket by a link: the file that it leads to is masked."""
    folder = Path(names[0]).parent
    (folder / "link").symlink_to(folder / "deep")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "link" / "four"))
        sock.listen(8)
        (folder / "deep/four").chmod(0o666)
        ways = [f"{folder}/link/four", f"{folder}/deep/four"]
        command = COMMAND.format(names=" ".join(ways))
        hidden = plan_of(workspace, hide_run=True, hide_sockets=True)
        assert inside(user, workspace, hidden, command).split() == []
        assert inside(user, workspace, None, command).split() == ways


def test_what_is_bound_and_gone_is_no_hindrance(
    user: User, workspace: Path, names: list[str]
) -> None:
    os.unlink(names[0])  # noqa: PTH108 - its server goes on
    plan = plan_of(workspace, hide_run=True, hide_sockets=True, sockets=(names[3],))
    command = COMMAND.format(names=" ".join(names))
    assert inside(user, workspace, plan, command).split() == [names[3]]


def test_the_plan_of_an_old_kernel_asks_for_it() -> None:
    agreed = profile(network={"unix": ["/s/x"]}, may_lack=["unix"])
    plan = compiled([agreed], HostFeatures(landlock_abi=2 + 1, unix_hooks=False, view=True))
    assert plan.view is not None
    assert plan.view.hide_sockets
