# SPDX-License-Identifier: Apache-2.0
"""When the daemon does not start, what it says; rights that cannot be used; two side by side."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from monitor.kernel.tracing import BPFFS
from tests.support.daemon import Daemon, User, delegations_for, wait_until

MakeDaemon = Callable[..., Daemon]


@pytest.mark.parametrize(
    ("capability", "purpose"),
    [
        ("kill", "ending sessions"),
        ("setgid", "the identity maps of a session's namespace"),
        ("sys_ptrace", "reading back what a launched process wears"),
    ],
)
def test_a_missing_capability_is_named(
    make_daemon: MakeDaemon, capability: str, purpose: str
) -> None:
    daemon = make_daemon()
    status, said = daemon.refuses("setpriv", f"--bounding-set=-{capability}")
    assert status == 1
    assert f"ri-monitord: CAP_{capability.upper()} is missing: it is needed for {purpose}" in said
    # With it, the same starts.
    daemon.start()


def test_a_damaged_log_is_not_written_to(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.start()
    daemon.stop()
    before = (daemon.state / "audit.db").read_bytes()
    (daemon.state / "audit.head").unlink()
    status, said = daemon.refuses()
    assert status == 1
    assert f"{daemon.state}/audit.head is missing" in said
    assert (daemon.state / "audit.db").read_bytes() == before


@pytest.mark.parametrize("name", ["state.db", "audit.db"])
def test_a_file_that_is_no_database_is_named(make_daemon: MakeDaemon, name: str) -> None:
    daemon = make_daemon()
    daemon.state.mkdir(mode=0o700)
    (daemon.state / name).write_bytes(b"no database at all, " * 100)
    status, said = daemon.refuses()
    assert status == 1
    assert str(daemon.state / name) in said
    assert "Traceback" not in said


def test_a_state_folder_that_is_none_is_named(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.state.write_text("")
    status, said = daemon.refuses()
    assert status == 1
    assert str(daemon.state) in said


def test_a_broken_configuration_is_named_with_its_line(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(limits={"sessions": 0})
    status, said = daemon.refuses()
    assert status == 1
    assert said.startswith(f"ri-monitord: {daemon.config}:")
    assert "limits.sessions" in said


def test_a_second_daemon_of_the_same_folder_is_refused(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.start()
    first = daemon.process
    status, said = daemon.refuses()
    daemon.process = first
    assert status == 1
    assert "a daemon runs already" in said
    assert daemon.exec("base", ["/bin/true"]).returncode == 0


def test_a_state_of_an_older_run_is_taken_over(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.start()
    assert daemon.exec("base", ["/bin/true"]).returncode == 0
    daemon.stop()
    daemon.start()
    assert len(daemon.sessions(True)) == 1
    assert daemon.exec("base", ["/bin/true"]).returncode == 0
    assert daemon.request("GET", "/v1/log/verify")[1]["ok"]
    # Policy ids are never used twice.
    with sqlite3.connect(daemon.state / "state.db") as database:
        bodies = [row[0] for row in database.execute("SELECT body ->> 'policies' FROM sessions")]
    database.close()
    assert len(set(bodies)) == 2


class TestDelegations:
    """The rights are read again when the file changes; where it is broken, nobody has any."""

    def start(self, daemon: Daemon) -> int:
        return daemon.exec("base", ["/bin/true"]).returncode

    def test_they_are_taken_up_while_the_daemon_runs(
        self, make_daemon: MakeDaemon, user: User
    ) -> None:
        daemon = make_daemon()
        daemon.start()
        assert self.start(daemon) == 0
        daemon.write(daemon.delegations, {"delegations": []})
        assert self.start(daemon) == 125
        assert "has no right" in daemon.exec("base", ["/bin/true"]).stderr
        daemon.write(daemon.delegations, delegations_for(user))
        assert self.start(daemon) == 0
        daemon.delegations.unlink()
        assert self.start(daemon) == 125

    @pytest.mark.parametrize(
        ("text", "mode"),
        [
            pytest.param("delegations: [", 0o644, id="cut short"),
            pytest.param("delegations: [{who: somebody}]", 0o644, id="no right"),
            pytest.param(None, 0o666, id="writable by all"),
        ],
    )
    def test_a_broken_file_gives_nobody_rights(
        self, make_daemon: MakeDaemon, text: str | None, mode: int, user: User
    ) -> None:
        daemon = make_daemon()
        daemon.start()
        assert self.start(daemon) == 0
        running = daemon.spawn("base", ["/bin/sleep", "600"])
        session = daemon.launched(running)["id"]
        if text is not None:
            daemon.delegations.write_text(text)
        daemon.delegations.chmod(mode)
        result = daemon.exec("base", ["/bin/true"])
        assert result.returncode == 125
        assert "the delegations cannot be used" in result.stderr
        (problem,) = daemon.doctor()["problems"]
        assert str(daemon.delegations) in problem
        # What runs is not touched, and the daemon goes on.
        assert [each["id"] for each in daemon.sessions()] == [session]
        daemon.write(daemon.delegations, delegations_for(user))
        daemon.delegations.chmod(0o644)
        assert self.start(daemon) == 0
        assert daemon.doctor()["problems"] == []
        running.kill()
        running.communicate(timeout=30)

    def test_a_stranger_gets_nothing(self, make_daemon: MakeDaemon, stranger: User) -> None:
        daemon = make_daemon()
        daemon.start()
        result = daemon.exec("base", ["/bin/true"], user=stranger)
        assert result.returncode == 125
        assert f"user {stranger.name} has no right" in result.stderr
        assert daemon.sessions(True) == []
        (record,) = daemon.records(verb="session.launch", verdict="deny")
        assert record["reason"] in result.stderr
        assert daemon.exec("base", ["/bin/true"]).returncode == 0

    def test_only_root_starts_as_another(
        self, make_daemon: MakeDaemon, user: User, stranger: User
    ) -> None:
        daemon = make_daemon()
        rights = delegations_for(user)
        rights["delegations"][0]["run_as"] = [stranger.name]
        daemon.write(daemon.delegations, rights)
        daemon.start()
        command = ["/usr/bin/id", "-un"]
        result = daemon.exec("base", command, "--user", stranger.name)
        assert result.returncode == 125
        assert "only root" in result.stderr
        root = User("root")
        result = daemon.exec("base", command, "--user", stranger.name, user=root)
        assert result.returncode == 0, result.stderr
        result = daemon.exec("base", command, user=root)
        assert result.returncode == 125
        assert "--user NAME" in result.stderr


def test_two_instances_do_not_see_each_other(make_daemon: MakeDaemon, user: User) -> None:
    one, other = make_daemon(), make_daemon()
    one.start()
    other.start()
    process = one.spawn("base", ["/bin/sleep", "600"])
    session = one.launched(process)["id"]
    assert other.sessions(True) == []
    assert other.request("GET", f"/v1/sessions/{session}")[0] == 404
    assert other.exec("base", ["/bin/cat", "/etc/shadow"]).returncode == 1
    other.settled()
    assert one.records(verdict="deny") == []
    assert len(other.records(verdict="deny")) == 1
    other.restart_worker()
    assert other.stop() == 0
    # The end of one takes nothing from the other.
    assert [each["id"] for each in one.sessions()] == [session]
    assert (BPFFS / one.instance).is_dir()
    assert one.exec("base", ["/bin/cat", "/etc/shadow"]).returncode == 1
    process.kill()
    process.communicate(timeout=30)


def test_names_that_root_alone_controls_are_resolved(make_daemon: MakeDaemon, user: User) -> None:
    """`/bin` is a link of root's; one of the user's own is not followed, its rule left out."""
    daemon = make_daemon()
    daemon.start()
    secret = user.home / "secret"
    secret.write_text("secret")
    link = user.home / f"link-{os.getpid()}"
    link.symlink_to(secret)
    os.lchown(link, user.uid, user.gid)
    name = daemon.profile("linked", f"include: [base]\nfiles: {{read: ['{link}']}}\n")
    result = daemon.exec(name, ["/bin/cat", link])
    assert (result.returncode, result.stdout) == (1, "")
    assert f"the rule on {link} is left out" in result.stderr
    direct = daemon.profile("direct", f"include: [base]\nfiles: {{read: ['{secret}']}}\n")
    assert daemon.exec(direct, ["/bin/cat", link]).stdout == "secret"
    link.unlink()


def test_memory_and_readiness_after_a_restart(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.start()
    for _ in range(3):
        assert daemon.exec("coding-agent", ["/bin/true"]).returncode == 0
        daemon.restart_worker()

    def resident() -> int:
        text = Path(f"/proc/{daemon.worker_pid()}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0])

    wait_until(lambda: resident() > 0)
    assert resident() <= 80 * 1024
