# SPDX-License-Identifier: Apache-2.0
"""The shipped profiles with the programs that agents really run: what they need, they have."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, User

PREPARE = """
git init -q . && git config --global user.name t && git config --global user.email t@test.invalid
echo TOKEN=1 > .env && echo TOKEN=1 > .env.production && echo TOKEN= > .env.example
printf '.env\\n.env.production\\n' > .gitignore && mkdir -p .vscode .claude
echo '{}' > .vscode/tasks.json && echo '{}' > .claude/settings.json
git add -A && git commit -q -m first
mkdir -p ~/.ssh ~/.config/mini-swe-agent ~/.local/bin
echo key > ~/.ssh/id_ed25519 && echo '# start-up' > ~/.bashrc
printf '#!/bin/sh\\necho tool\\n' > ~/.local/bin/tool && chmod +x ~/.local/bin/tool
"""


@pytest.fixture
def workspace(user: User) -> Path:
    """A repository of the user's, and a home with something in it."""
    folder = user.home / "project"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(
        ["runuser", "-u", user.name, "--", "sh", "-ec", f"mkdir {folder}; cd {folder}{PREPARE}"],
        check=True,
        capture_output=True,
        env={"HOME": str(user.home), "PATH": "/usr/sbin:/usr/bin:/bin"},
    )
    return folder


def run(
    daemon: Daemon, profile: str, workspace: Path, command: str, *, observe: bool = False
) -> subprocess.CompletedProcess[str]:
    return daemon.exec(
        profile,
        ["/bin/bash", "-c", command],
        "--workspace",
        str(workspace),
        observe=observe,
        cwd=workspace,
        timeout=120,
    )


WORK = {
    "shell": "cat <<< here | grep -q here && diff <(echo a) <(echo a) && test $(nproc) -ge 1",
    "who": 'test "$(id -un)" = "$(getent passwd $(id -u) | cut -d: -f1)" && ps -e > /dev/null',
    "edit": "echo x > new && mv new other && cp other third && chmod +x third && rm other third",
    "vim": "vim.tiny -es -c 'normal ix' -c wq file && grep -q x file",
    "git": "echo a > a && git add -A && git commit -q -m second && git stash list && git checkout"
    " -q -b topic && git gc -q && git fsck && git clone -q . clone && rm -rf clone",
    "python": "python3 -m venv --without-pip .venv && .venv/bin/python -c 'import ssl, sqlite3,"
    " multiprocessing as m; ssl.create_default_context(); m.Queue().put(1)'",
    "gcc": "printf 'int main(void){return 0;}' > a.c && gcc a.c -o a && ./a",
    "make": "printf 'all:\\n\\ttrue\\n' > Makefile && make -s -j2",
    "node": 'node -e \'const {Worker}=require("worker_threads"); new Worker("",{eval:true})\'',
    "npm": "npm init -y > /dev/null && npm ls",
    "ripgrep": "rg -q TOKEN .env.example",
    "terminal": "test \"$(script -qc 'tty' /dev/null)\" != 'not a tty'",
    "ssh": "ssh -V 2>&1 | grep -q OpenSSH",
    "own tools": "~/.local/bin/tool && git config --get user.name && cat .env.example",
    "scratch": "f=$(mktemp) && echo x > $f && rm $f && echo x > ~/.config/mini-swe-agent/log",
}


@pytest.mark.parametrize("name", WORK)
def test_coding_agents_can_work(daemon: Daemon, workspace: Path, name: str) -> None:
    needed = {"node": "node", "npm": "npm", "ripgrep": "rg", "vim": "vim.tiny"}.get(name, "sh")
    assert shutil.which(needed), f"{needed} is part of the set-up"
    done = run(daemon, "coding-agent", workspace, f"set -e; {WORK[name]}")
    assert done.returncode == 0, done.stdout + done.stderr


REFUSED = {
    "key": "cat ~/.ssh/id_ed25519",
    "home": "ls ~",
    "secrets": "cat .env",
    "secrets of production": "cat .env.production",
    "start-up file": "echo x >> ~/.bashrc",
    "tools": "echo x >> ~/.local/bin/tool",
    "git settings": "git config --global a.b c",
    "hook": "echo x > .git/hooks/post-commit",
    "hooks folder": "mv .git/hooks .git/old",
    "git folder": "mv .git old && mv old .git",
    "repository settings": "git config core.pager x",
    "tasks": "echo x > .vscode/tasks.json",
    "agents' hooks": "echo x > .claude/settings.json",
    "listening": "python3 -c 'import socket; socket.create_server((\"127.0.0.1\", 0))'",
    "name server": "python3 -c 'import socket as s;"
    ' s.socket(2, 2).sendto(b"x", ("127.0.0.1", 53))\'',
}


@pytest.mark.parametrize("name", REFUSED)
def test_coding_agents_are_stopped(daemon: Daemon, workspace: Path, name: str) -> None:
    done = run(daemon, "coding-agent", workspace, REFUSED[name])
    assert done.returncode != 0, done.stdout
    assert done.returncode != 125, done.stderr
    observed = run(daemon, "coding-agent", workspace, REFUSED[name], observe=True)
    assert observed.returncode == 0, observed.stderr


def test_builds_run_without_home_or_network(daemon: Daemon, workspace: Path) -> None:
    build = "set -e; test $CI = true; printf 'int main(void){return 0;}' > a.c; gcc a.c -o a; ./a"
    done = run(daemon, "ci-agent", workspace, f"{build}; git add -A; git commit -qm built")
    assert done.returncode == 0, done.stderr
    reach = "exec 3<>/dev/tcp/127.0.0.1/8000"
    assert "Address family not supported" in run(daemon, "ci-agent", workspace, reach).stderr
    observed = run(daemon, "ci-agent", workspace, reach, observe=True)
    assert "Connection refused" in observed.stderr  # by the host: nobody listens there


def test_auditors_read_and_change_nothing(daemon: Daemon, workspace: Path) -> None:
    reading = "set -e; git log -1 >&2; ls /etc > /dev/null; cat /etc/fstab .gitignore; dpkg -l dash"
    done = run(daemon, "readonly-auditor", workspace, f"{reading}; f=$(mktemp); rm $f")
    assert done.returncode == 0, done.stderr
    for command in ("echo x > new", "echo x >> .gitignore", "rm .gitignore", "cat .env"):
        done = run(daemon, "readonly-auditor", workspace, command)
        assert done.returncode not in {0, 125}, command
        assert run(daemon, "readonly-auditor", workspace, command, observe=True).returncode == 0


def test_researchers_run_nothing_they_fetched(daemon: Daemon, workspace: Path) -> None:
    writing = "set -e; echo note > note.md; git add note.md; git commit -qm note; cp /bin/true t"
    done = run(daemon, "research-agent", workspace, writing)
    assert done.returncode == 0, done.stderr
    assert run(daemon, "research-agent", workspace, "./t").returncode == 126
    assert run(daemon, "research-agent", workspace, "./t", observe=True).returncode == 0


def test_base_opens_no_data(daemon: Daemon, workspace: Path) -> None:
    done = run(daemon, "base", workspace, "python3 -c 'import ssl'; ls; echo x > /tmp/ri-base")
    assert done.returncode == 1
    assert done.stderr.count("ermission denied") == 2, done.stderr
