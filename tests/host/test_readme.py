# SPDX-License-Identifier: Apache-2.0
"""The sessions of README.md, run as they are written there."""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.commands import Shell
from tests.support.daemon import Daemon, User, wait_until
from tests.support.dns import NameServer

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
RIGHTS = """\
delegations:
  - who: user:NAME
    profiles: ["*"]
    agents: ["*"]
    delegate: {max_ttl: 8h, max_depth: 2}
"""


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)^## ", TEXT, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def lines(title: str) -> list[tuple[str, str]]:
    """Each line that is typed, with what is typed into the shell that it starts."""
    typed: list[tuple[str, str]] = []
    inside = False
    for line in re.findall(r"^\$ (.+)$", section(title), re.MULTILINE):
        if inside:
            command, keys = typed[-1]
            typed[-1] = command, f"{keys}{line}\n"
            inside = line != "exit"
        else:
            typed.append((line, ""))
            inside = line.endswith("-- bash")
    return typed


def profiles(daemon: Daemon, title: str, customers: str = "/srv/customers") -> None:
    for text in re.findall(r"^```yaml\n(.*?)^```$", section(title), re.MULTILINE | re.DOTALL):
        name = re.search(r"^name: (\S+)$", text, re.MULTILINE)
        assert name
        written = text.replace("/srv/customers", customers)
        (daemon.profiles / f"{name[1]}.yaml").write_text(written)


@pytest.fixture
def daemon(user: User) -> Iterator[Daemon]:
    made = Daemon(user)
    made.delegations.write_text(RIGHTS.replace("NAME", user.name))
    try:
        made.start()
        yield made
    finally:
        made.clean()


@pytest.fixture
def project(user: User) -> Iterator[Path]:
    """A checkout of the user's with something to push, and where it goes."""
    place = user.home / "project"
    script = """
    git init -q --bare .upstream && git init -q -b main .
    git config user.email alice@example.org && git config user.name Alice
    git remote add origin "$PWD/.upstream" && git commit -q --allow-empty -m first
    """
    place.mkdir()
    os.chown(place, user.uid, user.gid)
    subprocess.run(
        ["/bin/sh", "-ec", script],
        cwd=place,
        env={"HOME": str(user.home), "PATH": "/usr/bin:/bin"},
        user=user.uid,
        group=user.gid,
        extra_groups=[],
        capture_output=True,
        check=True,
    )
    yield place
    shutil.rmtree(place)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[int]:
    """A web server on a port that coding-agent may connect to."""
    (tmp_path / "index.html").write_text("<p>a page\n")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    for port in range(8000, 9000):
        try:
            server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError:
            continue
        break
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield port
    server.shutdown()
    server.server_close()


def test_name_hosts(user: User, project: Path) -> None:
    title = "Name hosts"
    upstream = NameServer()
    upstream.add("api.example.com", "A 93.184.216.34")
    upstream.add("other.example.net", "A 93.184.216.35")
    daemon = Daemon(user, {"resolver": {"upstream": [f"127.0.0.1:{upstream.port}"]}})
    daemon.delegations.write_text(RIGHTS.replace("NAME", user.name))
    try:
        daemon.start()
        profiles(daemon, title)
        shell = Shell(daemon, user, project)
        listed, other, log = [shell.type(line) for line, _keys in lines(title)]
        assert "93.184.216.34" in listed.stdout, listed.stderr
        assert other.returncode == 2
        assert "other.example.net" in other.stderr
        assert "api.example.com" in log.stdout
        assert "deny" in log.stdout
    finally:
        daemon.clean()
        upstream.close()


def test_delegate_and_let_the_agent_delegate(daemon: Daemon, user: User, project: Path) -> None:
    shell = Shell(daemon, user, project)
    make, work, tree, log = [
        shell.type(line, keys) for line, keys in lines("Delegate, and let the agent delegate")
    ]
    for done in (make, tree, log):
        assert done.returncode == 0, (done.args, done.stderr)
    assert work.stdout == "fixed\n"
    assert (project / "notes.txt").read_text() == "fixed\n"
    chains = [each["chain"] for each in daemon.sessions(everything=True)]
    domain = "spiffe://test.example/agent"
    assert [f"user:{user.name}", f"{domain}/coder", f"{domain}/reviewer"] in chains
    assert "coder" in tree.stdout
    assert "reviewer" in tree.stdout
    assert "notes.txt" in log.stdout


def test_have_a_person_decide(daemon: Daemon, user: User, project: Path) -> None:
    title = "Have a person decide"
    profiles(daemon, title)
    shell = Shell(daemon, user, project)
    (start, _), (listing, _), (approve, _), (_wait, _), (log, _) = lines(title)
    pushing = shell.start(start.removesuffix(" &"))
    identity = ""

    def asked() -> bool:
        nonlocal identity
        found = daemon.request("GET", "/v1/asks")[1]["asks"]
        identity = found[0]["id"] if found else ""
        return bool(found)

    wait_until(asked, 30)
    assert pushing.poll() is None, "it is held"
    shown = shell.type(listing).stdout
    assert "git push origin main" in shown
    assert "pushes are reviewed" in shown
    answered = shell.type(approve.replace("ID", identity))
    assert answered.returncode == 0, answered.stderr
    _output, errors = pushing.communicate(timeout=60)
    assert pushing.returncode == 0, errors
    assert "main -> main" in errors
    assert "looked at it" in shell.type(log).stdout


def test_let_data_change_the_rules(
    daemon: Daemon, user: User, project: Path, page: int, tmp_path: Path
) -> None:
    title = "Let data change the rules"
    customers = daemon.folder / "customers"
    customers.mkdir()
    (customers / "list.csv").write_text("name,town\n")
    profiles(daemon, title, customers=str(customers))
    shell = Shell(daemon, user, project)
    (work, keys), (log, _) = lines(title)
    keys = keys.replace(":8000/", f":{page}/").replace("/srv/customers", str(customers))
    done = shell.type(work, keys)
    assert done.stdout.splitlines() == ["<p>a page", "name,town", "no way out"], done.stderr
    assert "customer-data" in shell.type(log).stdout


def test_take_it_back(daemon: Daemon, user: User, project: Path) -> None:
    shell = Shell(daemon, user, project)
    (one, _), (other, _), (tree, _), (revoke, _), (ps, _), (rest, _), (log, _) = lines(
        "Take it back"
    )
    sleeping = [shell.start(line.removesuffix(" &")) for line in (one, other)]
    wait_until(lambda: [each["state"] for each in daemon.sessions()] == ["running"] * 2, 30)
    assert "coder" in shell.type(tree).stdout
    done = shell.type(revoke)
    assert done.returncode == 0, done.stderr
    assert "revoked" in shell.type(ps).stdout
    assert [each.poll() for each in sleeping] == [None, None], "both run on"
    done = shell.type(rest)
    assert done.returncode == 0, done.stderr
    for each in sleeping:
        each.communicate(timeout=30)
        assert each.returncode != 0
    assert "enough for today" in shell.type(log).stdout
