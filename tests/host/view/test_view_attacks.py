# SPDX-License-Identifier: Apache-2.0
"""Attacks on the view by itself: a child of an ordinary user, and the mounts.

No Landlock and no seccomp here: what fails, fails because of the mounts. Each attack is also run
without the view, where it must succeed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.daemon import User
from tests.support.views import SECRET, inside, standard

ATTACKS = {
    "write a hook": "echo x > .git/hooks/post-commit",
    "git config": "git config core.hooksPath /tmp",
    "write git's config": "echo x >> .git/config",
    "truncate git's config": "truncate -s 0 .git/config",
    "replace git's config": "cp .git/config c && mv -f c .git/config",
    "move the folder": "mv .git/hooks .git/h2",
    "move the parent": "mv .git .git2",
    "remove the folder": "rm -rf .git/hooks && test ! -e .git/hooks",
    "chmod the folder": "chmod 700 .git/hooks",
    "read the secret": f"grep -q {SECRET} .env",
    "read the deep secret": f"grep -q {SECRET} deep/er/.env",
    "list a hidden folder": "ls deep/er/private/key",
    "read in a hidden folder": "cat deep/er/private/key",
    "open up the secret": f"chmod 600 .env && grep -q {SECRET} .env",
    "move the secret": f"mv .env e2 && grep -q {SECRET} e2",
    "remove the secret": "rm -f .env && test ! -e .env",
    "hard link the secret": f"ln .env e3 && grep -q {SECRET} e3",
    "copy the secret": f"cp .env e4 && grep -q {SECRET} e4",
    "move a parent of the secret": f"mv deep deep2 && grep -q {SECRET} deep2/er/.env",
    "move the nearer parent": f"mv deep/er deep/e2 && grep -q {SECRET} deep/e2/.env",
    "reach it by a symbolic link": f"ln -s deep d && grep -q {SECRET} d/er/.env",
    "reach a hook by a symbolic link": "ln -s .git g && echo x > g/hooks/post-commit",
    "reach it through /proc/self/cwd": f"grep -q {SECRET} /proc/self/cwd/.env",
    "reach it through /proc/self/root": f"grep -q {SECRET} /proc/self/root$PWD/.env",
    "run a denied program": "tools/curl",
    "run it by the loader": "/lib64/ld-linux-x86-64.so.2 tools/curl",
    "overwrite a denied program": "cp /bin/true tools/curl",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_fails_in_the_view_only(user: User, workspace: Path, attack: str) -> None:
    command = f"{{ {ATTACKS[attack]}; }} >/dev/null 2>&1 && echo DONE || echo failed"
    assert inside(user, workspace, standard(workspace), command) == "failed\n"
    assert (workspace / ".env").read_text() == f"{SECRET}\n"
    assert (workspace / "deep/er/.env").exists()
    assert not (workspace / ".git/hooks/post-commit").exists()
    assert inside(user, workspace, None, command) == "DONE\n"


PRIVILEGED = {
    "unmount": "umount .git/hooks",
    "unmount lazily": "umount -l .env",
    "remount": "mount -o remount,rw,bind .git/hooks",
    "unmount in a nested user namespace": "unshare -rm umount .git/hooks",
    "unmount all in a nested user namespace": "unshare -rm sh -c 'umount -l .git; umount -l .env'"
    f" && grep -q {SECRET} .env",
    "remount in a nested user namespace": "unshare -rm mount -o remount,rw,bind .git/hooks",
    "read in a nested user namespace": f"unshare -rm grep -q {SECRET} .env",
    "bind the parent elsewhere": f"mkdir m; unshare -rm sh -c 'mount --bind . m &&"
    f" grep -q {SECRET} m/.env'",
}


@pytest.mark.parametrize("attack", PRIVILEGED)
def test_mounts_cannot_be_undone(user: User, workspace: Path, attack: str) -> None:
    command = f"{{ {PRIVILEGED[attack]}; }} >/dev/null 2>&1 && echo DONE || echo failed"
    assert inside(user, workspace, standard(workspace), command) == "failed\n"


def test_a_nested_namespace_reads_the_secret_where_there_is_no_view(
    user: User, workspace: Path
) -> None:
    """So that the failures above are the view's, not this host's."""
    command = PRIVILEGED["bind the parent elsewhere"]
    command = f"{{ {command}; }} && echo DONE"
    assert inside(user, workspace, None, command) == "DONE\n"


def test_ordinary_work_goes_on(user: User, workspace: Path) -> None:
    script = f"""
set -e
echo 2 >> f; mkdir sub; echo x > sub/g; git add f sub; git commit -qm b
git log --oneline | wc -l
git checkout -q -b other; git mv f f2; git commit -qm c; git checkout -q -
git stash list; git gc -q; git tag t; git rebase -q HEAD~1
git clone -q . /tmp/clone-{user.name}; rm -rf /tmp/clone-{user.name}
mv sub/g sub/h; mv sub sub2; ln sub2/h sub2/i; rm -r sub2
/usr/bin/python3 -m venv --without-pip venv; venv/bin/python -c 'print(6 * 7)'
cat tools/curl | wc -c | xargs test 0 -lt
ls /proc/self/fd > /dev/null; grep -q processor /proc/cpuinfo; grep -q . /proc/sys/kernel/osrelease
ssh -G localhost 2>/dev/null | grep -c '^user '
tar cf - .git/HEAD | tar tf -
"""
    output = inside(user, workspace, standard(workspace), script)
    assert output.split() == ["2", "42", "1", ".git/HEAD"], output
