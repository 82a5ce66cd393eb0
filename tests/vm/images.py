# SPDX-License-Identifier: Apache-2.0
"""The kernels that the tests run on, and the disk images with them, made once and kept."""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "vm"
RECIPE = ROOT / "vagrant" / "box"
# What an image is made of: a change of any makes another image.
INGREDIENTS = (RECIPE / "image", RECIPE / "guest", RECIPE / "ri-guest.service")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A stock kernel: Debian's suite, its Python, and what is added to the command line."""

    name: str
    suite: str
    python: str
    title: str
    append: str = ""


KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel("bookworm", "bookworm", "3.11", "Debian 12, 6.1, BPF LSM"),
        Kernel("trixie", "trixie", "3.13", "Debian 13, 6.12, BPF LSM"),
        Kernel(
            "bookworm-nolsm",
            "bookworm",
            "3.11",
            "Debian 12, 6.1, no BPF LSM",
            "lsm=landlock,lockdown,yama,integrity,apparmor",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Image:
    """A disk, and its kernel and initrd beside it for booting without a boot loader."""

    disk: Path
    kernel: Path
    initrd: Path


def recipe() -> str:
    """What tells one recipe from another."""
    digest = hashlib.sha256()
    for path in INGREDIENTS:
        digest.update(path.read_bytes())
    setup = (ROOT / "packaging" / "setup").read_text(encoding="utf-8")
    start = setup.index('PACKAGES="')
    digest.update(setup[start : setup.index('"\n', start)].encode())
    return digest.hexdigest()


def image(kernel: Kernel) -> Image:
    """The image of a kernel's suite; made where there is none, or one of another recipe."""
    folder = CACHE / kernel.suite
    found = Image(folder / "disk.qcow2", folder / "kernel", folder / "initrd")
    stamp = folder / "recipe"
    if found.disk.exists() and stamp.exists() and stamp.read_text() == recipe():
        return found
    if os.geteuid() != 0:
        raise PermissionError(f"only root can make {found.disk}, because a file system is mounted")
    subprocess.run([str(RECIPE / "image"), kernel.suite, str(folder)], check=True)
    stamp.write_text(recipe())
    return found
