# SPDX-License-Identifier: Apache-2.0
"""What the kernel makes of a file that is executed: `#!` lines, the dynamic loader, identities."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from monitor.daemon.gate.images import Image, Images, script_line
from monitor.kernel.inodes import kernel_device


@pytest.mark.parametrize(
    ("line", "interpreter", "option"),
    [
        (b"#!/bin/sh\n", b"/bin/sh", None),
        (b"#! \t /bin/sh \t\n", b"/bin/sh", None),
        (b"#!/bin/sh -e\nrest", b"/bin/sh", b"-e"),
        (b"#!/usr/bin/env python3 -u  \n", b"/usr/bin/env", b"python3 -u"),
        (b"#!/bin/sh\0hidden\n", b"/bin/sh", None),
        (b"#!/bin/sh", b"/bin/sh", None),
        (b"#!\n", None, None),
        (b"#!   \n", None, None),
        (b"#!" + b" " * 300, None, None),
        (b"#!/" + b"a" * 300, None, None),
        (b"#!/bin/sh " + b"a" * 300, b"/bin/sh", b"a" * 245),
    ],
)
def test_script_lines(line: bytes, interpreter: bytes | None, option: bytes | None) -> None:
    assert script_line(line[:256]) == (interpreter, option)


LINES = (
    b"#!{} one two\n",
    b"#! {} \t one\n",
    b"#!{}\n",
    b"#!{} " + b"x" * 300 + b"\n",
    b"#!{} a\0b\n",
)


@pytest.mark.parametrize("line", LINES)
def test_the_kernel_reads_lines_like_this(tmp_path: Path, line: bytes) -> None:
    """A script whose interpreter prints what it was given."""
    shown = tmp_path / "show"
    source = tmp_path / "show.c"
    source.write_text(
        "#include <stdio.h>\nint main(int c, char **v) { for (; *v; v++) puts(*v); return 0; }"
    )
    subprocess.run(["cc", "-o", shown, source], check=True)
    script = tmp_path / "script"
    script.write_bytes(line.replace(b"{}", os.fsencode(shown)))
    script.chmod(0o755)
    done = subprocess.run([script, "argument"], capture_output=True, check=True)
    interpreter, option = script_line(script.read_bytes()[:256])
    expected = [interpreter, option, os.fsencode(script), b"argument"]
    assert done.stdout.splitlines() == [each for each in expected if each is not None]


def test_files_are_told_apart(tmp_path: Path) -> None:
    images = Images()

    def read(path: Path) -> Image:
        descriptor = os.open(path, os.O_PATH)
        try:
            return images.read(descriptor)
        finally:
            os.close(descriptor)

    found = Path("/usr/bin/env").stat()
    image = read(Path("/usr/bin/env"))
    assert image.regular and not image.is_loader and image.interpreter is None
    device = kernel_device(os.major(found.st_dev), os.minor(found.st_dev))
    assert (image.device, image.inode) == (device, found.st_ino)
    assert read(Path("/lib64/ld-linux-x86-64.so.2").resolve()).is_loader
    assert not read(tmp_path).regular
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    assert read(script).interpreter == b"/bin/sh"
    script.write_text("#!/bin/bash -e\n")
    assert read(script).interpreter == b"/bin/bash"
