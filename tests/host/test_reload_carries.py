# SPDX-License-Identifier: Apache-2.0
"""What goes on over a change of profile: labels, budgets, sub-agents, and what the disk refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.host.test_reload import FILES, Agent, changes, connects
from tests.support.daemon import Daemon, User, wait_until
from tests.support.listening import Server, serving


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server, Server]]:
    with serving() as one, serving() as two, serving() as three:
        yield one, two, three


def reload(daemon: Daemon, agent: Agent, count: int) -> None:
    assert daemon.rictl("reload").returncode == 0
    wait_until(lambda: len(changes(daemon, agent.session)) == count)


def labelled(servers: tuple[Server, Server, Server], keeps: int) -> str:
    listed = ", ".join(f'"127.0.0.1:{each.port}"' for each in servers)
    secret, _two, _three = servers
    return (
        f"{FILES}network: {{connect: [{listed}]}}\n"
        "labels:\n"
        f'  seen:\n    connect: ["127.0.0.1:{secret.port}"]\n'
        "    then:\n"
        f'      network: {{only: ["127.0.0.1:{secret.port}", "127.0.0.1:{keeps}"]}}\n'
    )


def test_an_earned_label_stays_earned(
    daemon: Daemon, servers: tuple[Server, Server, Server]
) -> None:
    secret, two, three = servers
    daemon.profile("labelled", labelled(servers, two.port))
    agent = Agent(daemon, "labelled")
    assert agent.do("connect", three.port) == 0
    assert agent.do("connect", secret.port) == 0
    assert agent.do("connect", three.port) == 1
    assert agent.do("connect", two.port) == 0
    # What follows is another: the label is not given back by it.
    daemon.profile("labelled", labelled(servers, three.port))
    reload(daemon, agent, 1)
    assert agent.do("connect", three.port) == 0
    assert agent.do("connect", two.port) == 1
    # The profile has no such label any more: it stays on who has it.
    daemon.profile("labelled", connects(secret.port, two.port, three.port))
    reload(daemon, agent, 2)
    assert agent.do("connect", three.port) == 0
    assert agent.do("connect", two.port) == 1
    daemon.restart_worker()
    assert agent.do("connect", two.port) == 1
    fresh = Agent(daemon, "labelled")
    assert fresh.do("connect", secret.port) == 0
    assert fresh.do("connect", two.port) == 0
    fresh.end()
    agent.end()


def test_one_that_is_not_earned_is_earned_after_it(
    daemon: Daemon, servers: tuple[Server, Server, Server]
) -> None:
    secret, two, three = servers
    daemon.profile("later", labelled(servers, two.port))
    agent = Agent(daemon, "later")
    daemon.profile("later", labelled(servers, three.port))
    reload(daemon, agent, 1)
    assert agent.do("connect", two.port) == 0
    assert agent.do("connect", secret.port) == 0
    assert agent.do("connect", two.port) == 1
    assert agent.do("connect", three.port) == 0
    agent.end()


def test_budgets_go_on_from_what_was_used(
    daemon: Daemon, servers: tuple[Server, Server, Server]
) -> None:
    one, two, _three = servers
    limits = "limits: {connects_per_minute: 6}\n"
    daemon.profile("counted", connects(one.port) + limits)
    agent = Agent(daemon, "counted")
    used = [agent.do("connect", one.port) for _ in range(4)]
    daemon.profile("counted", connects(one.port, two.port) + limits)
    reload(daemon, agent, 1)
    used += [agent.do("connect", two.port) for _ in range(4)]
    # The minute may have turned once in between.
    assert used.count(0) in (6, 8), used
    agent.end()


def test_sub_agents_follow(
    daemon: Daemon, servers: tuple[Server, Server, Server], user: User
) -> None:
    """The rows of sessions inside hold the links above: those change with them."""
    from tests.support.daemon import delegations_for

    one, two, _three = servers
    rights = delegations_for(user)
    rights["delegations"][0]["depth"] = 2
    daemon.write(daemon.delegations, rights)
    text = connects(one.port, two.port).replace("execute: [", 'execute: ["{home}/**", ')
    daemon.profile("outer", text)
    daemon.profile("inner", text)
    code = (
        "import socket,sys\n"
        "for line in sys.stdin:\n"
        "  s=socket.socket(); s.settimeout(5)\n"
        "  print(s.connect_ex(('127.0.0.1',int(line))), flush=True)\n"
    )
    from tests.support.checkout import ROOT

    launcher = str(ROOT / "monitor" / "launch" / "ri_exec.py")
    import subprocess

    process = daemon.spawn(
        "outer",
        ["/usr/bin/python3", "-I", "-S", launcher, "--profile", "inner", "--",
         "/usr/bin/python3", "-c", code],
        stdin=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None

    def ask(port: int) -> int:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{port}\n")
        process.stdin.flush()
        return int(process.stdout.readline() or json.dumps(-1))

    try:
        if ask(two.port) == -1:
            pytest.fail(process.communicate()[1])
    finally:
        daemon.write(daemon.delegations, delegations_for(user))
    assert ask(one.port) == 0
    daemon.profile("outer", connects(one.port).replace("execute: [", 'execute: ["{home}/**", '))
    assert daemon.rictl("reload").returncode == 0
    wait_until(lambda: ask(two.port) == 1)
    assert ask(one.port) == 0
    # The inner one's own profile widens nothing, and narrows.
    daemon.profile("inner", connects(two.port).replace("execute: [", 'execute: ["{home}/**", '))
    assert daemon.rictl("reload").returncode == 0
    wait_until(lambda: ask(one.port) == 1)
    assert ask(two.port) == 1
    daemon.restart_worker()
    assert ask(one.port) == 1
    process.communicate(timeout=20)
    daemon.settled()


def runs(argument: str) -> str:
    return connects(1) + f'exec: {{deny: [{{path: /usr/bin/id, args: ["{argument}"]}}]}}\n'


def test_rules_on_arguments_follow_where_starts_are_held(daemon: Daemon) -> None:
    daemon.profile("starts", runs("-u"))
    agent = Agent(daemon, "starts")
    assert (agent.do("run", "-u"), agent.do("run", "-g")) == (1, 0)
    daemon.profile("starts", runs("-g"))
    reload(daemon, agent, 1)
    wait_until(lambda: agent.do("run", "-g") == 1)
    assert agent.do("run", "-u") == 0
    agent.end()


def test_where_they_are_not_it_is_said(daemon: Daemon) -> None:
    daemon.profile("free", connects(1))
    agent = Agent(daemon, "free")
    daemon.profile("free", runs("-g"))
    done = daemon.rictl("reload")
    assert "! kept until it ends: free: exec: rules on arguments and asks" in done.stdout
    assert agent.do("run", "-g") == 0
    agent.end()
