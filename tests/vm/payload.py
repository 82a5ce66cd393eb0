# SPDX-License-Identifier: Apache-2.0
"""What a guest is given: this checkout with its dependencies, and a command to run in it.

The guest has no network, and making an environment in it takes minutes under emulation. So the
dependencies are unpacked here, from wheels for the guest's Python.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

from tests.vm.images import CACHE, ROOT, Kernel

LOCK = ROOT / "packaging" / "requirements-test.txt"
# Checkers of the source, which say the same on every kernel: a third of the size.
LEFT_OUT = {"mypy", "ruff", "librt", "ast_serialize", "types-psutil", "mypy_extensions"}
BLOCK = 512  # the disk that the guest sees is made of whole ones

RUN = """\
set -u
# Below /root the tests' ordinary users could not reach it.
mv project /srv/ri
cd /srv/ri
mkdir -p out
{command}
status=$?
tar -cf /dev/virtio-ports/ri.files -C out .
exit $status
"""


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", *arguments]
    subprocess.run([*command], check=True)


def wheels(python: str) -> Path:
    """A folder with the wheels of all locked dependencies for a Python, fetched once."""
    folder = CACHE.parent / "wheels" / python
    stamp = folder / ".lock"
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        folder.mkdir(parents=True, exist_ok=True)
        platforms = ("manylinux2014_x86_64", "manylinux_2_27_x86_64", "manylinux_2_28_x86_64")
        named = [word for each in platforms for word in ("--platform", each)]
        pip(
            *("download", "--no-deps", "--only-binary", ":all:", "--require-hashes"),
            *("--python-version", python, *named),
            *("--dest", str(folder), "--requirement", str(LOCK)),
        )
        stamp.write_text(digest)
    return folder


def environment(python: str) -> Path:
    """A tar of `.venv` for a guest's Python, made once for each lock."""
    folder = CACHE / "venv"
    digest = hashlib.sha256(LOCK.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:16]
    made = folder / f"{python}-{digest}.tar"
    if made.exists():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / f".{python}"
    shutil.rmtree(work, ignore_errors=True)
    packages = work / "lib" / f"python{python}" / "site-packages"
    for wheel in sorted(wheels(python).glob("*.whl")):
        if wheel.name.split("-")[0] not in LEFT_OUT:
            shutil.unpack_archive(wheel, packages, "zip")
    shutil.rmtree(packages / "numpy" / "_core" / "tests", ignore_errors=True)
    (work / "bin").mkdir()
    for name in ("python", "python3"):
        (work / "bin" / name).symlink_to("/usr/bin/python3")
    (work / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = true\nversion = {python}\n"
    )
    if sys.version_info[:2] == tuple(map(int, python.split("."))):
        # What this Python can compile, the guest need not, which is slow under emulation.
        command = [sys.executable, "-m", "compileall", "-q", "-j", "2"]
        named = ["-s", str(work), "-p", "/srv/ri/.venv", "--invalidation-mode", "unchecked-hash"]
        subprocess.run([*command, *named, str(packages)], check=False)
    temporary = made.with_suffix(".new")
    with tarfile.open(temporary, "w") as archive:
        archive.add(work, "project/.venv", filter=_as_root)
    temporary.rename(made)
    shutil.rmtree(work)
    for old in folder.glob(f"{python}-*.tar"):
        if old != made:
            old.unlink()
    return made


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def checkout() -> list[Path]:
    """The files of this checkout: tracked ones and new ones that are not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    paths = (ROOT / name.decode() for name in done.stdout.split(b"\0") if name)
    return [path for path in paths if path.is_symlink() or path.is_file()]


def pack(target: Path, kernel: Kernel, command: str, extra: Iterable[Path] = ()) -> None:
    """Write the guest's second disk; `extra` files stand in the guest's `/srv/ri/extra`."""
    shutil.copyfile(environment(kernel.python), target)
    with tarfile.open(target, "a") as archive:
        for path in checkout():
            archive.add(path, f"project/{path.relative_to(ROOT)}", filter=_as_root)
        for path in extra:
            archive.add(path, f"project/extra/{path.name}", filter=_as_root)
        data = RUN.format(command=command).encode()
        entry = tarfile.TarInfo("run")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    size = target.stat().st_size
    with target.open("ab") as file:
        file.truncate(-(-size // BLOCK) * BLOCK)
