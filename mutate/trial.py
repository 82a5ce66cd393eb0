# SPDX-License-Identifier: Apache-2.0
"""Runs in a copy of the checkout: a daemon of its own, and the rows of --prove that are named.

usage: python -m mutate.trial [ROW ...]      prints what `rictl doctor --prove --json` prints
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.support.checkout import ROOT
from tests.support.daemon import PYTHON, Daemon, User

NOBODY = "nobody"


def main(rows: list[str]) -> int:
    daemon = Daemon(User(NOBODY))
    try:
        daemon.start()
        options = [word for row in rows for word in ("--row", row)]
        command = [str(PYTHON), "-B", "-m", "monitor.cli.rictl", "doctor", "--prove", "--json"]
        environment = {"RI_SOCKET": str(daemon.socket), "PATH": os.environ["PATH"]}
        done = subprocess.run(
            [*command, *options],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        daemon.clean()
    try:
        json.loads(done.stdout)
    except ValueError:
        print(done.stderr, file=sys.stderr)
        return 2
    print(done.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
