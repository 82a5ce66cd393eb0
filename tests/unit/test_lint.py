# SPDX-License-Identifier: Apache-2.0
"""The linters are tests, so that one command says whether all is well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHELL_SCRIPTS = ("packaging/install", "packaging/setup", ".ci/run")


@pytest.mark.parametrize("tool", ["ruff check .", "ruff format --check .", "mypy"])
def test_python(tool: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *tool.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", SHELL_SCRIPTS)
def test_shell(script: str) -> None:
    path = ROOT / script
    shell = path.read_text(encoding="utf-8").partition("\n")[0].split("/")[-1].split()[-1]
    done = subprocess.run([shell, "-n", path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
