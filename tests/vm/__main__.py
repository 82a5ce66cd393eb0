# SPDX-License-Identifier: Apache-2.0
"""Run a command in a stock kernel: python -m tests.vm [--extra FILE…] KERNEL COMMAND…"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.vm import images, machine, payload


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parser.add_argument("kernel", choices=sorted(images.KERNELS))
    parser.add_argument("command", help="a line for sh, run in the guest's copy of this checkout")
    parser.add_argument("--seconds", type=float, default=1500.0, help="how long it may take")
    parser.add_argument("--append", default="", help="added to the kernel's command line")
    parser.add_argument("--extra", type=Path, nargs="*", default=[], help="files for ./extra")
    parser.add_argument("--out", type=Path, help="folder for what the command leaves in ./out")
    options = parser.parse_args()
    kernel = images.KERNELS[options.kernel]

    def show(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        outcome = machine.run(
            images.image(kernel),
            lambda target: payload.pack(target, kernel, options.command, options.extra),
            f"{kernel.append} {options.append}".strip(),
            options.seconds,
            show,
        )
    except (machine.NoMachine, OSError) as error:
        sys.stderr.write(f"tests.vm: {error}\n")
        return 1
    for name, data in outcome.files.items() if options.out else ():
        target = options.out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    sys.stderr.write(f"tests.vm: {kernel.title}: {outcome.seconds:.0f} s\n")
    return outcome.status


sys.exit(main())
