#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""An approver that is a program: shows each ask in a dialog on a person's desktop.

    approvers:
      - run: [/usr/lib/ri/examples/ask_dialog.py]
        user: alice
        timeout: 120

It gets the ask as JSON on standard input and prints the answer as JSON. When the ask is answered
elsewhere, or nobody answers in time, it is killed, and the dialog goes with it.

    ask_dialog.py [COMMAND]      COMMAND shows a dialog as zenity(1) does, which is the default
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from typing import Any

YES, NO = 0, 1
DESKTOP = {
    "XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}",
    "DISPLAY": ":0",
    "WAYLAND_DISPLAY": "wayland-0",
}


def described(ask: dict[str, Any]) -> str:
    """What the person sees. What an agent chose must not act as control characters."""
    lines = [
        f"{' > '.join(ask['chain'])} wants to do this:",
        "",
        f"{ask['verb']}  {shlex.join(ask['argv']) or ask['object']}",
        f"in: {ask['cwd']}",
        f"purpose: {ask['purpose']}",
        f"it is asked because: {ask['why'] or ask['rule']}",
    ]
    return "\n".join(
        "".join(each if each.isprintable() else "?" for each in line) for line in lines
    )


def main() -> int:
    command = sys.argv[1] if len(sys.argv) > 1 else "zenity"
    title = ["--title=An agent asks", "--ok-label=Once", "--cancel-label=No"]
    text = described(json.load(sys.stdin))
    done = subprocess.run(
        [command, "--question", "--no-markup", *title, f"--text={text}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**DESKTOP, **os.environ},
        check=False,
    )
    if done.returncode not in (YES, NO):
        return done.returncode  # no display: the ask stays for others
    print(json.dumps({"answer": "approve" if done.returncode == YES else "deny"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
