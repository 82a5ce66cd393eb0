# SPDX-License-Identifier: Apache-2.0
"""The shipped profiles with the programs that people use, and what each of them refuses."""

from __future__ import annotations

import errno
import os
import pty
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, User, wait_until
from tests.support.sides import Case, check, make, take

EACCES, EPERM, EROFS = errno.EACCES, errno.EPERM, errno.EROFS


@pytest.fixture(scope="module")
def home(daemon: Daemon) -> Path:
    """The user's home, with what is worth protecting in it."""
    home = daemon.user.home
    make(
        daemon.user, home, ".ssh/id_ed25519", ".ssh/config", ".bashrc", ".aws/credentials",
        ".claude/settings.json", ".claude/history", ".cache/pip/", ".npm/", ".local/bin/",
        ".gnupg/private", "private/notes",
    )  # fmt: skip
    (home / ".gitconfig").write_text("[user]\nname = Test\nemail = test@test.example\n")
    make(daemon.user, home)
    return home


@pytest.fixture
def workspace(daemon: Daemon, home: Path) -> Iterator[Path]:
    """A repository with one commit, and files that a coding agent is kept from."""
    folder = home / "work"
    make(daemon.user, folder, "README", ".env", ".env.example", ".vscode/tasks.json", "src/a.c")
    (folder / ".gitignore").write_text(".env\n")
    make(daemon.user, folder)
    as_user(daemon.user, folder, "git init -q . && git add README && git commit -qm one")
    yield folder
    shutil.rmtree(folder)


def as_user(user: User, folder: Path, script: str) -> None:
    """Outside of all sessions."""
    subprocess.run(
        ["/bin/bash", "-c", script],
        user=user.uid,
        group=user.gid,
        extra_groups=[],
        cwd=folder,
        env={"HOME": str(user.home), "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
    )


def run(
    daemon: Daemon, profile: str, workspace: Path, script: str, status: int = 0, seconds: int = 60
) -> str:
    """What `script` prints in bash under `profile`, in the workspace."""
    done = daemon.exec(
        profile,
        ["/bin/bash", "-c", script],
        "--workspace",
        str(workspace),
        cwd=workspace,
        timeout=seconds,
    )
    assert done.returncode == status, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


# -- programs -------------------------------------------------------------------------------------

BUILDS = {
    "bash": ("echo $((6 * 7)) | tee out; cat <<< here; ls -la > /dev/null", "42\nhere\n"),
    "pipes": ("seq 1000 | sort -rn | head -1; mktemp > /dev/null && echo made", "1000\nmade\n"),
    "gcc": (
        "printf '#include <stdio.h>\\nint main(void){puts(\"built\");}' > m.c && gcc -O1 m.c -o m"
        " && ./m",
        "built\n",
    ),
    "make": (
        "printf 'all: a b\\na b:\\n\\techo made > $@; sleep 0.05\\n' > Makefile"
        " && make -s -j2 && cat a b",
        "made\nmade\n",
    ),
    "python": (
        "python3 -c 'import json, sqlite3, ssl, multiprocessing as m;"
        " print(m.Pool(2).map(abs, [-1]))'",
        "[1]\n",
    ),
    "venv": (
        "python3 -m venv --without-pip v && v/bin/python -c 'import sys;"
        " print(sys.prefix != sys.base_prefix)'",
        "True\n",
    ),
    "git": (
        "echo more >> README && git add -A . && git commit -qm two && git log --format=%s"
        " && git status --short && git stash list && git diff HEAD~1 --stat | tail -1",
        None,
    ),
    "git init": (
        "git init -q new && cd new && touch f && git add f && git commit -qm first"
        " && git clone -q . ../cloned && git -C ../cloned log --format=%s",
        "first\n",
    ),
    "git branch": ("git checkout -q -b topic && git branch --format='%(refname:short)'", None),
    "node": ("node --version | cut -c 1; node -e 'console.log([1,2].join())'", "v\n1,2\n"),
    "npm": (
        "npm --version > /dev/null && npm init -y > /dev/null && grep -c '\"name\"' package.json",
        "1\n",
    ),
    "rg": ("rg -c README . | sort | head -1; rg --files | grep -c README", None),
    "vim": (
        "printf 'one\\n' > v.txt && vim -u NONE -es -c '%s/one/two/' -c wq v.txt && cat v.txt",
        "two\n",
    ),
    "script": ("script -qec tty /dev/null < /dev/null", "/dev/pts/0\n"),
    "pty": (
        "python3 -c 'import pty; pty.spawn([\"/bin/sh\", \"-c\", \"test -t 0 && echo yes\"])'"
        " < /dev/null",
        "yes\n",
    ),
    "tar": ("tar czf t.tgz README && tar tzf t.tgz", "README\n"),
}  # fmt: skip


@pytest.mark.parametrize("profile", ["coding-agent", "ci-agent"])
@pytest.mark.parametrize("program", BUILDS)
def test_programs_that_build(daemon: Daemon, workspace: Path, profile: str, program: str) -> None:
    script, expected = BUILDS[program]
    tool = script.split()[0]
    if tool in {"node", "npm", "rg", "vim", "gcc"} and shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed here")
    printed = run(daemon, profile, workspace, script)
    if expected is not None:
        assert printed == expected


@pytest.mark.parametrize(
    ("profile", "script", "expected"),
    [
        pytest.param("coding-agent", "python3 -m venv v && v/bin/pip --version | cut -d ' ' -f 1",
                     "pip\n", id="coding: pip"),
        pytest.param("research-agent", "echo note > notes && cat notes && python3 -c 'print(1)'",
                     "note\n1\n", id="research: notes"),
        pytest.param("research-agent", "git log --format=%s; rg -c README README", "one\n1\n",
                     id="research: git, rg"),
        pytest.param("readonly-auditor", "cat README; git log --format=%s; rg -c README README",
                     "README\none\n1\n", id="auditor: read"),
        pytest.param("readonly-auditor", "head -c 0 /etc/passwd; ls /var/log > /dev/null;"
                     " dpkg -s bash | head -1; echo x > /tmp/ri-$$; cat /tmp/ri-$$; rm /tmp/ri-$$",
                     "Package: bash\nx\n", id="auditor: host"),
        pytest.param("base", "id -un > /dev/null; date > /dev/null; awk 'BEGIN { print 1 }'",
                     "1\n", id="base"),
    ],
)  # fmt: skip
def test_other_programs(
    daemon: Daemon, workspace: Path, profile: str, script: str, expected: str
) -> None:
    assert run(daemon, profile, workspace, script) == expected


@pytest.mark.parametrize(
    "profile", ["coding-agent", "research-agent", "ci-agent", "readonly-auditor", "base"]
)
def test_the_user_s_other_terminals(daemon: Daemon, workspace: Path, profile: str) -> None:
    """What is typed into another shell of the user's is nobody's to read, or to write there."""
    master, slave = pty.openpty()
    try:
        os.fchown(slave, daemon.user.uid, -1)
        command = f"exec 3<> {os.ttyname(slave)} && echo DONE"
        as_user(daemon.user, workspace, command)
        assert run(daemon, profile, workspace, f"{{ {command}; }} 2>/dev/null", 1) == ""
    finally:
        os.close(master)
        os.close(slave)


def test_tmux(daemon: Daemon, workspace: Path) -> None:
    """A tmux of the session's own, in a profile that lists its socket.

    Its server listens, which the filter cannot tell from listening to the network: so it needs a
    bind rule as well.
    """
    rules = 'unix: ["{workspace}/tmux"], bind: ["127.0.0.1:8999"]'
    name = daemon.profile("with-tmux", f"include: [coding-agent]\nnetwork: {{{rules}}}\n")
    script = """
export TERM=xterm
tmux() { command tmux -S "$PWD/tmux" -f /dev/null "$@"; }
tmux new-session -d -x 80 -y 24 'tty > in-tmux; sleep 9' || exit
for i in $(seq 50); do [ -s in-tmux ] && break; sleep 0.05; done
tmux list-sessions -F '#{session_windows}' && tmux kill-server && cut -c 1-9 in-tmux
"""
    assert run(daemon, name, workspace, script) == "1\n/dev/pts/\n"
    daemon.settled()


@pytest.fixture
def sshd(daemon: Daemon, home: Path, tmp_path: Path) -> Iterator[int]:
    """A server on loopback that takes a test key of the user's."""
    user = daemon.user
    key = home / ".ssh/ri-test"
    for path in (key, tmp_path / "host"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    make(user, home / ".ssh")
    key.chmod(0o600)
    # A password of "!" locks the account, and sshd then takes no key either.
    subprocess.run(["usermod", "-p", "*", user.name], check=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    settings = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": key.with_suffix(".pub"),
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
    }
    config = tmp_path / "sshd_config"
    config.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    server = subprocess.Popen(
        ["/usr/sbin/sshd", "-D", "-e", "-f", config], stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: answers(port))
        yield port
    finally:
        server.terminate()
        server.wait()
        for path in (key, key.with_suffix(".pub")):
            path.unlink()


def answers(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_ssh(daemon: Daemon, workspace: Path, sshd: int) -> None:
    ssh = (
        f"ssh -p {sshd} -i {daemon.user.home}/.ssh/ri-test -o BatchMode=yes"
        " -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        f" {daemon.user.name}@127.0.0.1 'echo over ssh'"
    )
    name = daemon.profile(
        "with-ssh",
        f"""
include: [coding-agent]
files:
  read: [/etc/ssh/ssh_config, /etc/ssh/ssh_config.d/**, "{{home}}/.ssh/ri-test"]
network:
  connect: ["127.0.0.1:{sshd}"]
""",
    )
    assert run(daemon, name, workspace, ssh) == "over ssh\n"
    run(daemon, "coding-agent", workspace, ssh, status=255)


# -- what is refused ------------------------------------------------------------------------------


def test_coding_agent_refuses(daemon: Daemon, home: Path, workspace: Path) -> None:
    w, h = workspace, home
    table = [
        Case("read the work", f"read('{w}/README')", 0, "file.open", f"{w}/README"),
        Case("an example of secrets", f"read('{w}/.env.example')"),
        Case("secrets", f"read('{w}/.env')", EACCES, "file.open", f"{w}/.env", "view",
             "files.deny"),
        Case("a hook", f"write('{w}/.git/hooks/post-commit', os.O_CREAT)", EROFS, "file.write",
             f"{w}/.git/hooks/post-commit", "view", "files.read_only"),
        Case("git's configuration", f"write('{w}/.git/config')", EROFS, "file.write",
             f"{w}/.git/config", "view", "files.read_only"),
        Case("an editor's task", f"write('{w}/.vscode/tasks.json')", EROFS, "file.write",
             f"{w}/.vscode/tasks.json", "view", "files.read_only"),
        Case("a key", f"read('{h}/.ssh/id_ed25519')", EACCES, "file.open", f"{h}/.ssh/id_ed25519",
             "landlock"),
        Case("the home", f"os.listdir('{h}')", EACCES, "file.open", str(h), "landlock"),
        Case("other notes", f"read('{h}/private/notes')", EACCES, "file.open",
             f"{h}/private/notes", "landlock"),
        Case("a shell's start", f"write('{h}/.bashrc', os.O_APPEND)", EROFS, "file.write",
             f"{h}/.bashrc", "view"),
        Case("git's settings", f"write('{h}/.gitconfig')", EROFS, "file.write",
             f"{h}/.gitconfig", "view"),
        Case("the user's programs", f"write('{h}/.local/bin/git', os.O_CREAT)", EROFS,
             "file.write", f"{h}/.local/bin/git", "view"),
        Case("a key's mode", f"os.chmod('{h}/.ssh/id_ed25519', 0o644)", EROFS, "file.chmod",
             f"{h}/.ssh/id_ed25519", "view"),
        Case("its owner", f"os.chown('{h}/.ssh/id_ed25519', -1, -1)", EROFS, "file.chmod",
             f"{h}/.ssh/id_ed25519", "view"),
        Case("its attributes", f"os.setxattr('{h}/.ssh/id_ed25519', 'user.x', b'x')", EROFS,
             "file.chmod", f"{h}/.ssh/id_ed25519", "view"),
        Case("its times", f"os.utime('{h}/.ssh/id_ed25519', (1, 1))", EROFS),
        Case("the mode of the work", f"os.chmod('{w}/README', 0o644)", 0, "file.chmod",
             f"{w}/README"),
        Case("the agent's hooks", f"write('{h}/.claude/settings.json')", EROFS, "file.write",
             f"{h}/.claude/settings.json", "view", "files.read_only"),
        Case("the agent's history", f"write('{h}/.claude/history')", 0, "file.write",
             f"{h}/.claude/history"),
        Case("another port", "connect('127.0.0.1', 7999)", EPERM),
        Case("a name server", "send('127.0.0.53', 53)", EPERM),
    ]  # fmt: skip
    with_port = [case for case in table if case.name in {"another port", "a name server"}]
    rest = [case for case in table if case not in with_port]
    check(daemon, "coding-agent", rest, "--workspace", str(w))
    denied = daemon_refuses(daemon, "coding-agent", w, with_port)
    assert {record["mechanism"] for record in denied} <= {"cgroup-bpf", "seccomp"}


def daemon_refuses(
    daemon: Daemon, profile: str, workspace: Path, table: list[Case]
) -> list[dict[str, object]]:
    """Network cases that nobody answers: observed they fail too, but not for want of a rule."""
    options = ("--workspace", str(workspace))
    governed = take(daemon, profile, table, *options)
    wrong = {
        case.name: governed.answers[case.name]
        for case in table
        if governed.answers[case.name] not in {EPERM, EACCES, errno.EAFNOSUPPORT}
    }
    assert not wrong
    observed = take(daemon, profile, table, *options, observe=True)
    assert not {EPERM, EACCES, errno.EAFNOSUPPORT} & set(observed.answers.values())
    denied = governed.matching(verdict="deny")
    assert len(denied) >= len(table)
    assert len(observed.matching(verdict="would-deny")) >= len(table)
    return denied


def test_the_repository_cannot_be_moved_from_under_its_masks(
    daemon: Daemon, workspace: Path
) -> None:
    script = "mv .git git2; echo $?; rm -rf .git/hooks; echo $?; git config core.pager x; echo $?"
    printed = run(daemon, "coding-agent", workspace, script + " 2>/dev/null")
    assert "0" not in printed.split()
    assert (workspace / ".git/hooks").is_dir()
    assert "pager" not in (workspace / ".git/config").read_text()


def test_research_agent_refuses(daemon: Daemon, home: Path, workspace: Path) -> None:
    w, h = workspace, home
    shutil.copy("/usr/bin/true", w / "tool")
    table = [
        Case("write the work", f"write('{w}/README')", 0, "file.write", f"{w}/README"),
        Case("run from the work", f"run('{w}/tool')", EACCES, "proc.exec", f"{w}/tool",
             "landlock"),
        Case("secrets", f"read('{w}/.env')", EACCES, "file.open", f"{w}/.env", "view",
             "files.deny"),
        Case("a key", f"read('{h}/.ssh/id_ed25519')", EACCES, "file.open", f"{h}/.ssh/id_ed25519",
             "landlock"),
        Case("git's configuration", f"write('{w}/.git/config')", EROFS, "file.write",
             f"{w}/.git/config", "view", "files.read_only"),
        Case("the machine itself", "send('127.0.0.1', 443)", EPERM, "net.send",
             "127.0.0.1:443/udp", "cgroup-bpf", "network.deny"),
        Case("the machine itself, IPv6", "send('::1', 443)", EPERM, "net.send", "[::1]:443/udp",
             "cgroup-bpf", "network.deny"),
    ]  # fmt: skip
    check(daemon, "research-agent", table, "--workspace", str(w))


def test_ci_agent_refuses(daemon: Daemon, home: Path, workspace: Path) -> None:
    w, h = workspace, home
    table = [
        Case("write the work", f"write('{w}/README')", 0, "file.write", f"{w}/README"),
        Case("secrets", f"read('{w}/.env')", EACCES, "file.open", f"{w}/.env", "view",
             "files.deny"),
        Case("a cache", f"write('{h}/.cache/pip/x', os.O_CREAT)", EROFS, "file.write",
             f"{h}/.cache/pip/x", "view"),
        Case("a cache may be read", f"os.listdir('{h}/.cache/pip')"),
        Case("credentials", f"read('{h}/.aws/credentials')", EACCES, "file.open",
             f"{h}/.aws/credentials", "landlock"),
        Case("git's configuration", f"write('{w}/.git/config')", EROFS, "file.write",
             f"{w}/.git/config", "view", "files.read_only"),
    ]  # fmt: skip
    check(daemon, "ci-agent", table, "--workspace", str(w), again=lambda: None)
    network = [
        Case("any socket", "socket.socket().close()"),
        Case("the model server", "connect('127.0.0.1', 8000)"),
        Case("udp", "send('127.0.0.1', 53)"),
    ]
    daemon_refuses(daemon, "ci-agent", w, network)


def test_readonly_auditor_refuses(daemon: Daemon, home: Path, workspace: Path) -> None:
    w, h = workspace, home
    table = [
        Case("read the work", f"read('{w}/README')", 0, "file.open", f"{w}/README"),
        Case("write the work", f"write('{w}/README')", EROFS, "file.write", f"{w}/README",
             "view"),
        Case("open up the work", f"os.chmod('{w}/README', 0o666)", EROFS, "file.chmod",
             f"{w}/README", "view"),
        Case("a new file", f"write('{w}/new', os.O_CREAT)", EROFS, "file.write", f"{w}/new",
             "view"),
        Case("secrets", f"read('{w}/.env')", EACCES, "file.open", f"{w}/.env", "view",
             "files.deny"),
        Case("the home", f"read('{h}/private/notes')", EACCES, "file.open",
             f"{h}/private/notes", "landlock"),
        Case("remove", f"os.unlink('{w}/src/a.c')", EROFS, "file.unlink", f"{w}/src/a.c",
             "view"),
        Case("configuration", "read('/etc/passwd')", 0, "file.open", "/etc/passwd"),
    ]  # fmt: skip
    check(daemon, "readonly-auditor", table, "--workspace", str(w))
    network = [Case("any socket", "socket.socket().close()")]
    daemon_refuses(daemon, "readonly-auditor", w, network)


def test_base_alone_refuses_the_work(daemon: Daemon, home: Path, workspace: Path) -> None:
    w = workspace
    table = [
        Case("a library", "read('/usr/bin/true')", 0, "file.open", "/usr/bin/true"),
        Case("read the work", f"read('{w}/README')", EACCES, "file.open", f"{w}/README",
             "landlock"),
        Case("the home", f"read('{home}/.bashrc')", EACCES, "file.open", f"{home}/.bashrc",
             "landlock"),
        Case("/tmp", "write('/tmp/ri-base-test', os.O_CREAT)", EACCES, "file.write",
             "/tmp/ri-base-test", "landlock"),
    ]  # fmt: skip
    try:
        check(daemon, "base", table, "--workspace", str(w))
    finally:
        Path("/tmp/ri-base-test").unlink(missing_ok=True)
