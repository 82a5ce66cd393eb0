# SPDX-License-Identifier: Apache-2.0
"""packaging/install: into a folder, twice; the installed commands run; nothing but /etc/ri stays.

The folder is laid over /usr and /etc in a mount namespace of its own, so that commands run by the
paths that they will have, and nothing of this host changes.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor import __version__
from tests.support.wheels import repack

ROOT = Path(__file__).resolve().parents[2]
OVER = """
set -e
mount -t overlay overlay -o lowerdir="$1/usr:/usr" /usr
mount -t overlay overlay -o lowerdir="$1/etc:/etc" /etc
shift
cd /
exec "$@"
"""

# Installing for real, without DESTDIR: /usr and /etc can be written, and nothing of it stays.
FOR_REAL = """
set -e
mount --make-rslave /
mount -t tmpfs none /mnt
for folder in usr etc; do
    mkdir -p /mnt/$folder/upper /mnt/$folder/work
    mount -t overlay overlay \\
        -o lowerdir=/$folder,upperdir=/mnt/$folder/upper,workdir=/mnt/$folder/work /$folder
done
cd /
source=$1 venv=$2 instance=$3
mkdir -p /usr/lib/ri
cp -a "$venv" /usr/lib/ri/venv
"$source/packaging/install"
getent group ri-admin >/dev/null
useradd --create-home --home-dir /mnt/home ritester
cat >/etc/ri/config.yaml <<END
instance: $instance
state: /mnt/state
END
cat >/etc/ri/delegations.yaml <<END
delegations: [{who: user:ritester, profiles: [readonly-auditor], agents: ["*"]}]
END
export RI_SOCKET=/run/$instance/ri.sock
PATH=/usr/sbin:/usr/bin:/sbin:/bin
env -u RI_SOCKET ri-monitord >/mnt/output &
daemon=$!
timeout 60 sh -c 'until grep -q ready /mnt/output; do sleep 0.1; done'
su ritester -c 'cd; ri-exec --profile readonly-auditor -- sh -c "echo in; cat /etc/shadow"' || true
su ritester -c 'ri-exec --profile ci-agent -- true' || echo "refused: $?"
su ritester -c 'rictl log --json --verdict deny' | grep -c /etc/shadow
rictl log verify
su ritester -c 'cd; exec ri-exec --profile readonly-auditor -- sleep 600' &
timeout 60 sh -c 'until rictl ps | grep -q running; do sleep 0.1; done'
"$source/packaging/install" --remove || echo "remove: $?"
rictl kill "$(rictl ps | sed -n '2s/ .*//p')" >/dev/null
"$source/packaging/install" --remove || echo "remove: $?"
kill $daemon
wait $daemon
"$source/packaging/install" --remove
[ ! -e /usr/lib/ri ] && [ ! -e /usr/bin/rictl ] && [ -e /etc/ri/config.yaml ] && echo gone
"""


class Installation:
    """A checkout with a lock of its own, and the folder it is installed into."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        self.wheels = folder / "wheels"
        self.target = folder / "target"
        for each in ("monitor", "probes", "profiles", "packaging", "LICENSES"):
            shutil.copytree(ROOT / each, self.source / each)
        shutil.copy(ROOT / "LICENSE", self.source)
        self.wheels.mkdir()
        lock = self.source / "packaging" / "requirements.txt"
        lock.write_text(repack(lock, self.wheels), encoding="utf-8")

    def script(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.source / "packaging" / "install", *arguments],
            env={
                "PATH": os.environ["PATH"],
                "DESTDIR": str(self.target),
                "RI_WHEELS": str(self.wheels),
                **environment,
            },
            cwd="/",
            capture_output=True,
            text=True,
        )

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command on a host where this is installed."""
        return subprocess.run(
            ["unshare", "--mount", "/bin/sh", "-c", OVER, "sh", str(self.target), *command],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def files(self) -> dict[str, tuple[int, int, bytes]]:
        """Every file's mode, mtime and content, by its path in the target."""
        found = {}
        for path in sorted(self.target.rglob("*")):
            if path.is_file() and not path.is_symlink() and path.suffix != ".pyc":
                facts = path.stat()
                place = str(path.relative_to(self.target))
                found[place] = (facts.st_mode & 0o7777, facts.st_mtime_ns, path.read_bytes())
        return found


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    made = Installation(tmp_path_factory.mktemp("install"))
    done = made.script()
    assert done.returncode == 0, done.stdout + done.stderr
    yield made
    shutil.rmtree(made.target)
    shutil.rmtree(made.wheels)


def test_what_is_written_can_be_read_by_all_and_changed_by_root_only(
    installation: Installation,
) -> None:
    for path in installation.target.rglob("*"):
        facts = path.lstat()
        if not path.is_symlink():
            assert facts.st_mode & 0o022 == 0, path
            # But the key that signs grants, which will stand there.
            wanted = 0o000 if path == installation.target / "etc" / "ri" / "keys" else 0o044
            assert facts.st_mode & 0o044 == wanted, path
        assert (facts.st_uid, facts.st_gid) == (0, 0), path


def test_no_file_names_the_folder_it_was_built_in(installation: Installation) -> None:
    wanted = str(installation.target).encode()
    source = str(installation.source).encode()
    for path in installation.target.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            assert wanted not in data, path
            assert source not in data, path


def test_a_second_time_changes_nothing_and_keeps_the_administrators_files(
    installation: Installation,
) -> None:
    etc = installation.target / "etc" / "ri"
    (etc / "delegations.yaml").write_text("delegations: []  # mine\n")
    (etc / "profiles" / "mine.yaml").write_text("name: mine\n")
    before = installation.files()
    done = installation.script()
    assert done.returncode == 0, done.stderr
    assert "making" not in done.stdout  # the dependencies are there already
    after = installation.files()
    assert after.keys() == before.keys()
    for place, (mode, moment, content) in before.items():
        assert (after[place][0], after[place][2]) == (mode, content), place
        if place.startswith("etc/"):
            assert after[place][1] == moment, place


@pytest.mark.parametrize("command", ["rictl", "ri-exec", "ri-monitord"])
def test_the_installed_commands_run(installation: Installation, command: str) -> None:
    done = installation.run(command, "--version")
    assert (done.returncode, done.stdout) == (0, f"{command} {__version__}\n"), done.stderr
    assert installation.run(command, "--help").stdout.lower().startswith("usage: " + command)


def test_the_commands_do_not_take_modules_from_where_they_are_called(
    installation: Installation, tmp_path: Path
) -> None:
    trap = tmp_path / "monitor"
    trap.mkdir()
    (trap / "__init__.py").write_text("raise SystemExit('trapped')\n")
    for command in ("rictl", "ri-exec", "ri-monitord"):
        done = installation.run(
            *("/bin/sh", "-c", f"cd {tmp_path} && exec {command} --version"),
            PYTHONPATH=str(tmp_path),
            PYTHONSTARTUP=str(trap / "__init__.py"),
        )
        assert done.returncode == 0, done.stderr


def test_profiles_and_configuration_are_found(installation: Installation, tmp_path: Path) -> None:
    assert installation.run("rictl", "profile", "show", "base").stdout.startswith("# SPDX")
    done = installation.run("rictl", "profile", "check", "/usr/lib/ri/profiles/base.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    done = installation.run("rictl", "ps", "--socket", str(tmp_path / "none"))
    assert (done.returncode, "ri-monitord" in done.stderr) == (3, True)


@pytest.mark.parametrize("page", ["rictl", "ri-exec", "ri-monitord", "ri-profile"])
def test_man_finds_the_pages(installation: Installation, page: str) -> None:
    # man takes its formatter from groff-base; a page is read as the person at a terminal sees it.
    done = installation.run("man", page, MANPAGER="cat", MANWIDTH="100")
    assert done.returncode == 0, done.stderr
    assert page.upper() in done.stdout


def test_bash_completes(installation: Installation) -> None:
    folder = installation.target / "usr" / "share" / "bash-completion" / "completions"
    script = f"""
        for each in rictl ri-exec ri-monitord; do . {folder}/$each; done
        show() {{ echo "${{COMPREPLY[@]}}"; }}
        COMP_WORDS=(rictl pro) COMP_CWORD=1; _rictl_completion rictl; show
        COMP_WORDS=(rictl profile '') COMP_CWORD=2; _rictl_completion rictl; show
        COMP_WORDS=(ri-exec --work) COMP_CWORD=1; _ri_exec; show
        COMP_WORDS=(ri-monitord --st) COMP_CWORD=1; _ri_monitord; show
    """
    done = installation.run("bash", "-c", script)
    assert done.stdout.splitlines() == [
        "profile",
        "check show schema diff",
        "--workspace",
        "--state",
    ], done.stderr


def test_the_unit_is_understood_by_systemd(installation: Installation, tmp_path: Path) -> None:
    unit = installation.target / "usr" / "lib" / "systemd" / "system" / "ri-monitord.service"
    text = unit.read_text()
    assert "@PREFIX@" not in text
    assert "ExecStart=/usr/sbin/ri-monitord\n" in text
    # Only the program is not there on this host.
    copy = tmp_path / unit.name
    copy.write_text(text.replace("/usr/sbin/ri-monitord", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_prefix_of_ones_own(installation: Installation, tmp_path: Path) -> None:
    target = tmp_path / "local"
    shutil.copytree(
        installation.target / "usr/lib/ri/venv", target / "opt/ri/lib/ri/venv", symlinks=True
    )
    done = installation.script(DESTDIR=str(target), PREFIX="/opt/ri")
    assert done.returncode == 0, done.stderr
    assert (target / "opt/ri/bin/rictl").read_text().startswith("#!/opt/ri/lib/ri/venv/bin/python")
    assert not (target / "usr").exists()
    assert installation.script("--remove", DESTDIR=str(target), PREFIX="/opt/ri").returncode == 0
    assert sorted(path.name for path in target.iterdir()) == ["etc"]


def test_on_a_whole_host(installation: Installation) -> None:
    instance = f"rit{secrets.token_hex(4)}"
    venv = installation.target / "usr/lib/ri/venv"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", FOR_REAL, "sh", installation.source, venv, instance],
        env={"PATH": os.environ["PATH"], "RI_WHEELS": str(installation.wheels)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for line in ("in", "refused: 125", "remove: 1", "gone"):
        assert line in done.stdout.splitlines(), done.stdout + done.stderr
    assert "the log is whole" in done.stdout
    assert "sessions still run" in done.stderr
    assert "ri-monitord still runs" in done.stderr
    left = [*Path("/sys/fs/cgroup").rglob(instance), Path("/sys/fs/bpf", instance)]
    assert not [path for path in [*left, Path("/run", instance)] if path.exists()]


@pytest.mark.parametrize(
    "environment",
    [{"PREFIX": "usr"}, {"DESTDIR": "relative"}, {"PREFIX": "/with space"}, {"PREFIX": "/a\nb"}],
)
def test_unusable_places_are_refused(
    installation: Installation, environment: dict[str, str]
) -> None:
    assert installation.script(**environment).returncode == 2
    assert installation.script("--everything").returncode == 2


def test_removing_leaves_the_administrators_files_only(installation: Installation) -> None:
    etc = installation.target / "etc" / "ri"
    (etc / "delegations.yaml").write_text("delegations: []  # mine\n")
    foreign = installation.target / "usr" / "bin" / "another"
    foreign.write_text("not ours")
    assert installation.script("--remove").returncode == 0
    left = {str(path.relative_to(installation.target)) for path in installation.target.rglob("*")}
    assert {path for path in left if not path.startswith("etc")} == {
        *("usr", "usr/bin", "usr/bin/another")
    }
    assert (etc / "delegations.yaml").read_text() == "delegations: []  # mine\n"
    assert installation.script("--remove").returncode == 0
