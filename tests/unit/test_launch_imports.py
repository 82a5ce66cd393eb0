# SPDX-License-Identifier: Apache-2.0
"""What a launch imports is paid at every launch: the standard library's cheap modules only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Each costs between one and fifteen milliseconds.
DEAR = {
    "__future__",
    "argparse",
    "ctypes",
    "dataclasses",
    "enum",
    "json",
    "pathlib",
    "re",
    "signal",
    "socket",
    "struct",
    "subprocess",
    "typing",
    "warnings",
}
SCRIPT = """
import sys
before = set(sys.modules)
sys.path.insert(0, sys.argv[1])
from monitor.launch import channel, child, failure, kernel, lifeline, options, parent, protocol
added = set(sys.modules) - before - set(sys.builtin_module_names)
print(*sorted(added))
"""


def added() -> set[str]:
    """Modules that the launcher loads, beyond those of the bare interpreter."""
    command = [sys.executable, "-I", "-S", "-c", SCRIPT, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_launcher_imports_nothing_dear() -> None:
    assert not added() & DEAR


def test_the_launcher_imports_itself_and_the_standard_library_only() -> None:
    others = {name for name in added() if name.split(".")[0] not in sys.stdlib_module_names}
    assert {name for name in others if not name.startswith("monitor.launch")} == {"monitor"}
