# SPDX-License-Identifier: Apache-2.0
"""QEMU: a guest that is started, runs what its second disk holds, and is gone."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.vm.images import CACHE, Image

QEMU = "qemu-system-x86_64"
APPEND = "root=LABEL=root rw console=ttyS0 net.ifnames=0 quiet"
STATUS = re.compile(rb"^ri-guest: status (\d+)\n\Z", re.MULTILINE)
KVM_SECONDS = 20.0  # a kernel that boots under it has long said something by then


class NoMachine(Exception):
    """The guest could not be started, or was gone before it had said how its command ended."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the command in the guest ended, what it printed, and the files of its folder `out`."""

    status: int
    output: str
    files: dict[str, bytes]
    seconds: float


def kvm() -> bool:
    """Can a stock kernel be booted under KVM here? That /dev/kvm exists does not say so."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    known = CACHE / "kvm"
    here = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    if known.exists() and known.read_text().startswith(here):
        return known.read_text().endswith("yes")
    kernels = sorted(CACHE.glob("*/kernel"))
    if not kernels:
        return False
    with tempfile.TemporaryDirectory(prefix="ri-kvm-") as folder:
        console = Path(folder, "console")
        command = [QEMU, "-M", "q35", "-accel", "kvm", "-cpu", "host", "-m", "512"]
        command += ["-kernel", str(kernels[0]), "-append", "console=ttyS0 panic=-1"]
        command += ["-display", "none", "-serial", f"file:{console}", "-no-reboot", "-nic", "none"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + KVM_SECONDS
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        if process.poll() is None:
            process.kill()
        process.wait()
        works = console.exists() and b"Linux version" in console.read_bytes()
    known.write_text(f"{here} {'yes' if works else 'no'}")
    return works


def command_line(image: Image, payload: Path, folder: Path, append: str) -> list[str]:
    """QEMU's. Nothing is written to the disk, and there is no network."""
    accel = ["-accel", "kvm", "-cpu", "host"] if kvm() else []
    accel = accel or ["-accel", "tcg,thread=multi", "-cpu", "max"]
    drives = (f"file={image.disk},if=virtio,snapshot=on", f"file={payload},if=virtio,format=raw")
    ports = []
    for name in ("result", "files"):
        ports += ["-chardev", f"file,id={name},path={folder / name}"]
        ports += ["-device", f"virtserialport,chardev={name},name=ri.{name}"]
    return [
        *(QEMU, "-M", "q35", *accel, "-smp", "2", "-m", "2500"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
        *("-append", f"{APPEND} ri.guest {append}".strip()),
        *("-drive", drives[0], "-drive", f"{drives[1]},readonly=on"),
        *("-device", "virtio-rng-pci", "-device", "virtio-serial", *ports),
        *("-display", "none", "-serial", f"file:{folder / 'console'}"),
        *("-no-reboot", "-nic", "none"),
    ]


def run(
    image: Image,
    fill: Callable[[Path], None],
    append: str = "",
    seconds: float = 1500.0,
    show: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Boot with the disk that `fill` writes; `show` is told what the command prints."""
    if shutil.which(QEMU) is None:
        raise NoMachine(f"{QEMU} is missing: apt-get install qemu-system-x86")
    # On disk: a payload is a hundred megabytes, and /tmp may be memory.
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=CACHE) as name:
        folder = Path(name)
        payload = folder / "payload.tar"
        fill(payload)
        began = time.monotonic()
        command = ["nice", "-n", "10", *command_line(image, payload, folder, append)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            output = _follow(process, folder / "result", began + seconds, show)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        took = time.monotonic() - began
        end = STATUS.search(output)
        if end is None:
            console = (folder / "console").read_text(errors="replace") if took else ""
            why = f"no answer within {seconds:.0f} s" if took >= seconds else "it went away"
            tail = "\n".join(console.splitlines()[-25:])
            raise NoMachine(f"the guest has not said how its command ended: {why}\n{tail}")
        text = output[: end.start()].decode(errors="replace")
        return Outcome(int(end[1]), text, _files(folder / "files"), took)


def _follow(
    process: subprocess.Popen[bytes], result: Path, end: float, show: Callable[[str], None]
) -> bytes:
    """What the guest prints, until it is off or the time is over."""
    seen = 0
    output = b""
    while True:
        over = process.poll() is not None or time.monotonic() >= end
        output = result.read_bytes() if result.exists() else b""
        output = output.replace(b"\r\n", b"\n")
        if len(output) > seen:
            show(output[seen:].decode(errors="replace"))
            seen = len(output)
        if over:
            return output
        time.sleep(0.5)


def _files(archive: Path) -> dict[str, bytes]:
    """The guest's folder `out`."""
    data = archive.read_bytes() if archive.exists() else b""
    if not data:
        return {}
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for entry in tar:
            file = tar.extractfile(entry) if entry.isfile() else None
            if file is not None:
                found[entry.name.removeprefix("./")] = file.read()
    return found
