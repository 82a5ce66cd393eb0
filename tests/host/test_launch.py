# SPDX-License-Identifier: Apache-2.0
"""ri-exec against a real daemon: what CMD gets, what it is told, and how it ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, User
from tests.support.launcher import Remains

BASE = """
include: [base]
files:
  read: ["{home}/**", /proc/**]
  write: ["{home}/**", /dev/null]
  execute: ["{home}/**"]
environment:
  keep: [PATH, HOME, LANG, "KEPT*", "ODD*"]
  scrub: ["*SECRET*"]
  set: {ADDED: by the profile}
"""


MASKED = """
include: [base]
files:
  read: [/proc/**, "{workspace}/**"]
  write: ["{workspace}/**"]
  deny: ["{workspace}/secret"]
"""
UNMASKED = MASKED.replace("  deny", "  read_only").replace("/secret", "/other")


@pytest.fixture(scope="module")
def workspace(daemon: Daemon) -> Path:
    folder = daemon.user.home / "workspace"
    folder.mkdir()
    for name in ("secret", "other"):
        (folder / name).write_text(f"content of {name}\n")
    for path in (folder, *folder.iterdir()):
        os.chown(path, daemon.user.uid, daemon.user.gid)
    return folder


@pytest.fixture(scope="module")
def profile(daemon: Daemon) -> str:
    return daemon.profile("launch", BASE)


@pytest.fixture(scope="module")
def warm(daemon: Daemon, profile: str, workspace: Path) -> None:
    """The first launches of a daemon open what it keeps open."""
    daemon.exec(profile, ["/bin/true"])
    daemon.exec(daemon.profile("masked", MASKED), ["/bin/true"], cwd=workspace)


@pytest.fixture(autouse=True)
def nothing_is_left(daemon: Daemon, warm: None) -> Iterator[None]:
    remains = Remains(daemon)
    yield
    remains.none()


def status_of(text: str) -> dict[str, str]:
    """/proc/self/status as a mapping."""
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name: value.strip() for name, _, value in pairs}


# -- exit statuses -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 7, 125, 126, 127, 255])
def test_the_exit_status_is_that_of_the_command(daemon: Daemon, profile: str, status: int) -> None:
    done = daemon.exec(profile, ["/bin/sh", "-c", f"exit {status}"])
    assert (done.returncode, done.stderr) == (status, "")


@pytest.mark.parametrize("number", [1, 2, 3, 9, 15, 11])
def test_a_signal_that_ends_the_command_is_told(daemon: Daemon, profile: str, number: int) -> None:
    done = daemon.exec(profile, ["/bin/sh", "-c", f"kill -{number} $$"])
    assert done.returncode == 128 + number


def test_a_command_that_is_not_there(daemon: Daemon, profile: str) -> None:
    done = daemon.exec(profile, ["no-such-command"])
    assert done.returncode == 127
    assert done.stderr == "ri-exec: no-such-command: command not found\n"
    done = daemon.exec(profile, ["/no/such/command"])
    assert (done.returncode, done.stderr) == (
        127,
        "ri-exec: /no/such/command: No such file or directory\n",
    )


def test_a_command_that_may_not_be_executed(daemon: Daemon, profile: str) -> None:
    done = daemon.exec(profile, ["/etc/passwd"])
    assert done.returncode == 126
    assert done.stderr.startswith("ri-exec: /etc/passwd: Permission denied\nhint: ")


def test_a_program_outside_the_profile(daemon: Daemon) -> None:
    """The same program, with execution granted and not."""
    folder = daemon.user.home / "tools"
    folder.mkdir(exist_ok=True)
    tool = folder / "tool"
    tool.write_text("#!/bin/sh\necho ran\n")
    tool.chmod(0o755)
    os.chown(folder, daemon.user.uid, daemon.user.gid)
    without = daemon.profile("no-tool", 'include: [base]\nfiles: {read: ["{home}/**"]}\n')
    more = 'include: [base]\nfiles: {read: ["{home}/**"], execute: ["{home}/**"]}\n'
    with_it = daemon.profile("tool", more)
    assert daemon.exec(without, [tool]).returncode == 126
    assert daemon.exec(with_it, [tool]).stdout == "ran\n"
    assert daemon.exec(without, [tool], observe=True).stdout == "ran\n"


def test_path_is_searched_as_the_session_sees_it(daemon: Daemon, profile: str) -> None:
    folder = daemon.user.home / "path"
    folder.mkdir(exist_ok=True)
    script = folder / "without-a-header"
    script.write_text("echo $0 $1 $ADDED\n")
    script.chmod(0o755)
    environment = daemon.environment(daemon.user) | {"PATH": f"/nowhere:/root:{folder}:/usr/bin"}
    # No `#!`: the shell runs it, as execvp(3) has it.
    done = daemon.exec(profile, ["without-a-header", "x"], env=environment)
    assert (done.returncode, done.stdout) == (0, f"{script} x by the profile\n")
    done = daemon.exec(profile, ["true"], env=environment | {"PATH": "/root"})
    assert done.returncode == 127


# -- what the command gets ---------------------------------------------------------------------


def test_arguments_and_environment_pass_byte_for_byte(daemon: Daemon, profile: str) -> None:
    odd = bytes(range(1, 256))
    command = daemon.exec_command(profile, [])
    script = (
        "import os,sys; b=os.fsencode; "
        "sys.stdout.buffer.write(repr([[b(a) for a in sys.argv[1:]],"
        "sorted(os.environb.items())]).encode())"
    )
    environment = {name.encode(): value.encode() for name, value in os.environ.items()}
    environment = {
        b"RI_SOCKET": bytes(daemon.socket),
        b"PATH": b"/usr/bin:/bin",
        b"KEPT": odd,
        b"ODD\xff\xfe": b"1",
        b"KEPT_SECRET": b"x",
        b"OTHER": b"x",
    }
    done = subprocess.run(
        [*command, "/usr/bin/python3", "-I", "-S", "-c", script, odd, b"", b"-x"],
        env=environment,
        user=daemon.user.uid,
        group=daemon.user.gid,
        extra_groups=[],
        cwd=daemon.user.home,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    arguments, found = eval(done.stdout)
    assert arguments == [odd, b"", b"-x"]
    known = dict(found)
    known.pop(b"LC_CTYPE", None)  # Python's own
    assert known == {
        b"PATH": b"/usr/bin:/bin",
        b"KEPT": odd,
        b"ODD\xff\xfe": b"1",
        b"ADDED": b"by the profile",
    }


def test_inherited_descriptors_are_closed(daemon: Daemon, profile: str) -> None:
    read_end, write_end = os.pipe()
    folder = os.open("/", os.O_RDONLY)
    os.set_inheritable(read_end, True)
    os.set_inheritable(folder, True)
    try:
        done = daemon.exec(
            profile, ["/bin/sh", "-c", "echo /proc/self/fd/*"], pass_fds=[read_end, folder]
        )
    finally:
        for descriptor in (read_end, write_end, folder):
            os.close(descriptor)
    # The fourth is the folder that the shell itself reads.
    assert [Path(name).name for name in done.stdout.split()] == ["0", "1", "2", "3"]


def test_standard_descriptors_that_are_closed_stay_harmless(daemon: Daemon, profile: str) -> None:
    command = daemon.exec_command(profile, ["/bin/sh", "-c", "readlink /proc/$$/fd/0 >&2"])
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" <&- >&-', "sh", *command],
        env=daemon.environment(daemon.user),
        user=daemon.user.uid,
        group=daemon.user.gid,
        cwd=daemon.user.home,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "/dev/null\n")


def test_a_folder_as_standard_output_is_refused(daemon: Daemon, profile: str) -> None:
    folder = os.open(daemon.user.home, os.O_RDONLY)
    try:
        done = daemon.exec(profile, ["/bin/touch", daemon.user.home / "touched"], stdout=folder)
    finally:
        os.close(folder)
    # Python itself, and after it the launcher, does not go on with one.
    assert done.returncode != 0
    assert "directory" in done.stderr
    assert not (daemon.user.home / "touched").exists()


def test_data_passes_through_pipes(daemon: Daemon, profile: str) -> None:
    process = daemon.spawn(profile, ["/bin/cat"], stdin=subprocess.PIPE)
    text = "x" * 500_000
    output, errors = process.communicate(text, timeout=60)
    assert (process.returncode, output, errors) == (0, text, "")


def test_who_reads_the_output_sees_its_end_when_the_command_closes_it(
    daemon: Daemon, profile: str
) -> None:
    process = daemon.spawn(profile, ["/bin/sh", "-c", "echo x; exec >&- 0<&-; sleep 30"])
    assert process.stdout is not None
    assert process.stdout.read() == "x\n"
    assert process.poll() is None
    process.terminate()
    assert process.wait(10) == 128 + 15
    process.communicate()


def test_broken_pipes_end_the_command_as_they_should(daemon: Daemon, profile: str) -> None:
    done = daemon.exec(profile, ["/bin/sh", "-c", "kill -PIPE $$; echo not reached"])
    assert (done.returncode, done.stdout) == (128 + 13, "")


def test_the_command_wears_what_the_record_says(daemon: Daemon, profile: str) -> None:
    done = daemon.exec(profile, ["/bin/cat", "/proc/self/status"])
    worn = status_of(done.stdout)
    assert worn["NoNewPrivs"] == "1"
    assert worn["Seccomp"] == "2"
    assert int(worn["CapEff"], 16) == int(worn["CapPrm"], 16) == 0
    assert int(worn["SigBlk"], 16) == 0
    (record,) = daemon.records(verb="session.launch", newest=1, limit=1)
    status, body = daemon.request("GET", f"/v1/records/{record['id']}")
    assert status == 200
    facts = body["record"]["details"]
    assert facts["no_new_privs"] is True
    assert facts["seccomp_filters"] == int(worn["Seccomp_filters"])
    assert facts["capabilities"]["CapEff"] == "0"
    assert facts["descriptors"] == [0, 1, 2]
    assert facts["landlock_layers"] == 1
    assert facts["landlock_rules"] > 10
    assert facts["uid"] == daemon.user.uid
    assert record["session"] in facts["cgroup"]


def test_the_working_directory_and_the_workspace(daemon: Daemon, profile: str) -> None:
    folder = daemon.user.home / "odd \udcff\nfolder"
    folder.mkdir(exist_ok=True)
    os.chown(folder, daemon.user.uid, daemon.user.gid)
    only = daemon.profile("workspace", 'include: [base]\nfiles: {write: ["{workspace}/**"]}\n')
    script = "echo x > here"
    done = daemon.exec(only, ["/bin/sh", "-c", script], cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "here").exists()
    done = daemon.exec(only, ["/bin/sh", "-c", script], "--workspace", "/tmp", cwd=folder)
    assert done.returncode != 0


# -- profiles ----------------------------------------------------------------------------------


def test_a_profile_from_a_file(daemon: Daemon) -> None:
    file = daemon.user.home / "mine.yaml"
    file.write_text("name: mine\ninclude: [base]\n")
    done = daemon.exec("./mine.yaml", ["/bin/echo", "ran"])
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr
    file.write_text("name: mine\ninclude: [base]\nfles: {}\n")
    done = daemon.exec("mine.yaml", ["/bin/echo", "ran"])
    assert (done.returncode, done.stdout) == (125, "")
    assert f"{file}:3:" in done.stderr


def test_a_file_is_read_as_the_one_who_asks(daemon: Daemon, stranger: User) -> None:
    file = daemon.user.home / "closed.yaml"
    file.write_text("name: closed\ninclude: [base]\n")
    file.chmod(0o600)
    done = daemon.exec(str(file), ["/bin/true"])
    assert done.returncode == 125
    assert done.stderr == f"ri-exec: cannot read {file}: Permission denied\n"


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"x" * 60_000, "larger than"), (b"a\0b", "NUL byte"), (b"\xff", "not UTF-8")],
)
def test_a_file_that_is_no_profile(daemon: Daemon, content: bytes, what: str) -> None:
    file = daemon.user.home / "no.yaml"
    file.write_bytes(content)
    done = daemon.exec(str(file), ["/bin/true"])
    assert done.returncode == 125
    assert what in done.stderr


def test_a_folder_named_without_its_content_is_an_error(daemon: Daemon) -> None:
    exact = daemon.profile("exact", 'include: [base]\nfiles: {read: ["{home}"]}\n')
    done = daemon.exec(exact, ["/bin/true"])
    assert done.returncode == 125
    home = daemon.user.home
    assert done.stderr == (
        f"ri-exec: {home} is a directory\nhint: write {home}/** in the profile\n"
    )


def test_a_path_that_is_not_there_grants_nothing_and_harms_nothing(daemon: Daemon) -> None:
    absent = daemon.profile("absent", "include: [base]\nfiles: {read: [/no/such/file]}\n")
    assert daemon.exec(absent, ["/bin/true"]).returncode == 0


def test_a_link_that_its_user_made_grants_nothing(daemon: Daemon) -> None:
    """Rules follow only links that root made: what the link names may change under them."""
    secret = daemon.user.home / "behind-a-link"
    secret.mkdir(exist_ok=True)
    (secret / "text").write_text("secret")
    link = daemon.user.home / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(secret)
    linked = daemon.profile("linked", 'include: [base]\nfiles: {read: ["{home}/link/**"]}\n')
    done = daemon.exec(linked, ["/bin/cat", link / "text"])
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        f"ri-exec: the rule on {link} is left out: a part of it is a symbolic link" in done.stderr
    )
    observed = daemon.exec(linked, ["/bin/cat", link / "text"], observe=True)
    assert observed.stdout == "secret"


# -- refusals ----------------------------------------------------------------------------------


def test_a_stranger_gets_no_session(daemon: Daemon, profile: str, stranger: User) -> None:
    done = daemon.exec(profile, ["/bin/echo", "ran"], user=stranger)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("ri-exec: ")
    (record,) = daemon.records(verb="session.launch", newest=1, limit=1)
    assert record["verdict"] == "deny"


def test_an_unknown_profile_is_named(daemon: Daemon) -> None:
    done = daemon.exec("no-such-profile", ["/bin/true"])
    assert done.returncode == 125
    assert "no-such-profile" in done.stderr


def test_no_daemon_no_command(daemon: Daemon, profile: str) -> None:
    environment = daemon.environment(daemon.user) | {"RI_SOCKET": "/run/nowhere/ri.sock"}
    done = daemon.exec(profile, ["/bin/echo", "ran"], env=environment)
    assert (done.returncode, done.stdout) == (125, "")
    assert "cannot reach the daemon at /run/nowhere/launch.sock" in done.stderr


def test_who_listens_must_be_root(daemon: Daemon, profile: str) -> None:
    """A socket of the user's own promises nothing."""
    folder = daemon.user.home / "false"
    folder.mkdir(exist_ok=True)
    os.chown(folder, daemon.user.uid, daemon.user.gid)
    script = (
        "import socket,sys\n"
        "s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET); s.bind(sys.argv[1]); s.listen(1)\n"
        "print('ready',flush=True); s.accept()"
    )
    with subprocess.Popen(
        ["/usr/bin/python3", "-c", script, str(folder / "launch.sock")],
        user=daemon.user.uid,
        group=daemon.user.gid,
        stdout=subprocess.PIPE,
        text=True,
    ) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"
        environment = daemon.environment(daemon.user) | {"RI_SOCKET": str(folder / "ri.sock")}
        done = daemon.exec(profile, ["/bin/echo", "ran"], env=environment)
    assert (done.returncode, done.stdout) == (125, "")
    assert "is not root" in done.stderr


def test_control_characters_in_names_do_not_reach_the_terminal(daemon: Daemon) -> None:
    done = daemon.exec("./\x1b[31mred\n.yaml", ["/bin/true"])
    assert done.returncode == 125
    assert "\x1b" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


# -- started by root ---------------------------------------------------------------------------


def as_root(daemon: Daemon) -> User:
    root = User("root")
    root.home = daemon.user.home
    return root


def test_root_must_say_who_the_command_is(daemon: Daemon, profile: str) -> None:
    done = daemon.exec(profile, ["/bin/echo", "ran"], user=as_root(daemon))
    assert (done.returncode, done.stdout) == (125, "")
    assert "--user NAME" in done.stderr


def test_root_starts_a_session_for_a_user(daemon: Daemon, profile: str) -> None:
    script = "cat /proc/self/status; echo HOME:$HOME; echo x > /root/x; cat /etc/shadow"
    done = daemon.exec(
        profile, ["/bin/sh", "-c", script], "--user", daemon.user.name, user=as_root(daemon)
    )
    worn = status_of(done.stdout)
    assert worn["Uid"].split() == [str(daemon.user.uid)] * 4
    assert worn["Gid"].split() == [str(daemon.user.gid)] * 4
    assert worn["Groups"].split() == [str(daemon.user.gid)]
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert {int(worn[name], 16) for name in sets} == {0}
    assert worn["HOME"] == str(daemon.user.home)
    assert done.stderr.count("Permission denied") == 2


def test_a_user_cannot_become_another(daemon: Daemon, profile: str, stranger: User) -> None:
    done = daemon.exec(profile, ["/bin/echo", "ran"], "--user", stranger.name)
    assert (done.returncode, done.stdout) == (125, "")


def test_root_without_capabilities(daemon: Daemon) -> None:
    """`run_as: root`: user id 0, and nothing that comes with it."""
    rooted = daemon.profile("rooted", "include: [base]\nrun_as: root\nfiles: {read: [/proc/**]}\n")
    script = "cat /proc/self/status; chown 1 /usr/bin/true || echo refused; id -u"
    done = daemon.exec(rooted, ["/bin/sh", "-c", script], user=as_root(daemon))
    worn = status_of(done.stdout)
    assert worn["Uid"].split() == ["0"] * 4
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert {int(worn[name], 16) for name in sets} == {0}
    assert worn["NoNewPrivs"] == "1"
    assert done.stdout.splitlines()[-2:] == ["refused", "0"]


def test_a_launcher_with_two_user_ids_is_refused(daemon: Daemon, profile: str) -> None:
    """The real one could be taken back inside the session."""
    command = daemon.exec_command(profile, ["/bin/echo", "ran"])
    script = (
        "import os,sys; os.setresuid(int(sys.argv[1]), int(sys.argv[2]), 0);"
        "os.execv(sys.argv[3], sys.argv[3:])"
    )
    for real, effective in ((0, daemon.user.uid), (daemon.user.uid, 0)):
        done = subprocess.run(
            [sys.executable, "-c", script, str(real), str(effective), *command],
            env=daemon.environment(daemon.user),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (125, ""), done.stderr


def test_a_socket_as_standard_input_works(daemon: Daemon, profile: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = daemon.spawn(profile, ["/bin/cat"], stdin=theirs.fileno())
        theirs.close()
        ours.sendall(b"through\n")
        ours.close()
        output, _errors = process.communicate(timeout=60)
    assert output == "through\n"


# -- the view ----------------------------------------------------------------------------------


@pytest.mark.parametrize("starter", ["user", "root"])
def test_a_denied_file_is_hidden_by_any_name(daemon: Daemon, workspace: Path, starter: str) -> None:
    """By a relative name too: the working directory is the one inside the view."""
    masked, unmasked = daemon.profile("masked", MASKED), daemon.profile("unmasked", UNMASKED)
    options = [] if starter == "user" else ["--user", daemon.user.name]
    who = daemon.user if starter == "user" else as_root(daemon)
    script = "cat secret; cat $PWD/secret; cat ../workspace/secret; pwd; cat other"
    for profile, seen in ((masked, 0), (unmasked, 3)):
        done = daemon.exec(profile, ["/bin/sh", "-c", script], *options, user=who, cwd=workspace)
        assert done.stdout.count("content of secret") == seen, done.stderr
        assert done.stdout.splitlines()[-2:] == [str(workspace), "content of other"]
    done = daemon.exec(
        masked, ["/bin/cat", "secret"], *options, user=who, cwd=workspace, observe=True
    )
    assert done.stdout == "content of secret\n"


@pytest.mark.parametrize("starter", ["user", "root"])
def test_no_capability_is_left_in_the_view(daemon: Daemon, workspace: Path, starter: str) -> None:
    """The namespace that carries the view gives its maker every capability in it."""
    masked = daemon.profile("masked", MASKED)
    options = [] if starter == "user" else ["--user", daemon.user.name]
    who = daemon.user if starter == "user" else as_root(daemon)
    done = daemon.exec(masked, ["/bin/cat", "/proc/self/status"], *options, user=who, cwd=workspace)
    worn = status_of(done.stdout)
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert {int(worn[name], 16) for name in sets} == {0}
    assert worn["Uid"].split() == [str(daemon.user.uid)] * 4
    done = daemon.exec(
        masked, ["/bin/umount", workspace / "secret"], *options, user=who, cwd=workspace
    )
    assert done.returncode != 0


# -- ends from outside -------------------------------------------------------------------------


def test_who_is_killed_is_told_why(daemon: Daemon, profile: str) -> None:
    process = daemon.spawn(profile, ["/bin/sh", "-c", "echo started; exec sleep 60"])
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    (session,) = daemon.sessions()
    daemon.request("POST", f"/v1/sessions/{session['id']}/kill", {"why": "enough of it"})
    _output, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + 9
    assert "enough of it" in errors


def test_a_session_ends_with_its_time(daemon: Daemon, profile: str) -> None:
    done = daemon.exec(profile, ["/bin/sleep", "60"], "--ttl", "1s")
    assert done.returncode == 128 + 9
    assert "expired" in done.stderr


def test_what_the_command_leaves_behind_ends_with_it(daemon: Daemon, profile: str) -> None:
    marker = daemon.user.home / "late"
    script = f"(setsid sh -c 'sleep 1; echo x > {marker}' </dev/null >/dev/null 2>&1 &) ; echo done"
    done = daemon.exec(profile, ["/bin/sh", "-c", script])
    assert done.stdout == "done\n"
    daemon.settled()
    time.sleep(1.2)
    assert not marker.exists()
