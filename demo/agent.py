# SPDX-License-Identifier: Apache-2.0
"""mini-swe-agent, unchanged from PyPI: installed once into the cache, then put into a home."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from demo.account import Account
from demo.failure import DemoError
from demo.model_server import MODEL

_HERE = Path(__file__).parent
# Where pipx keeps what a user installs with it.
_HOME_PLACE = Path(".local/share/pipx/venvs/mini-swe-agent")
_TASK = "Fix the issue that is described in ISSUE.md, run the tests and commit."


def environment(cache: Path, requirements: str) -> Path:
    """A virtual environment holding exactly demo/REQUIREMENTS, made once."""
    lock = _HERE / requirements
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    folder = cache / f"{lock.stem}-{digest}"
    if (folder / "complete").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    print(f"installing {requirements} (once) ...", flush=True)
    # Debian's own Python: one that the shipped profiles let an agent read and run.
    _run("/usr/bin/python3", "-m", "venv", str(folder))
    _run(
        str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--no-deps",
        "--require-hashes", "--no-input", "--requirement", str(lock),
    )  # fmt: skip
    (folder / "complete").touch()
    return folder


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoError(f"{' '.join(argv)}: exit status {done.returncode}\n{done.stderr.strip()}")


def install(account: Account, installed: Path) -> Path:
    """Put the cached environment into the home, as links where the file system allows it."""
    place = account.home / _HOME_PLACE
    place.parent.mkdir(parents=True)
    account.give(account.home / ".local")
    for flags in ("-al", "-a"):
        copied = subprocess.run(
            ["cp", flags, str(installed), str(place)], capture_output=True, check=False
        )
        if copied.returncode == 0:
            return place
        shutil.rmtree(place, ignore_errors=True)
    raise DemoError(f"cp {installed} {place}: {copied.stderr.decode().strip()}")


def configure(account: Account, base_url: str) -> None:
    """The agent's own settings file, as `mini-extra config setup` would write it."""
    folder = account.home / ".config/mini-swe-agent"
    folder.mkdir(parents=True)
    (folder / ".env").write_text(
        f"MSWEA_MODEL_NAME='openai/{MODEL}'\n"
        "MSWEA_CONFIGURED='true'\n"
        "MSWEA_COST_TRACKING='ignore_errors'\n"
        "LITELLM_LOCAL_MODEL_COST_MAP='True'\n"
        f"OPENAI_API_BASE='{base_url}'\n"
        "OPENAI_API_KEY='scripted'\n"
    )
    account.give(account.home / ".config")


def command(place: Path) -> list[str]:
    """The agent's command line: no questions, and the end when the model says so."""
    return [
        str(place / "bin/python"), "-m", "minisweagent",
        "--yolo", "--exit-immediately", "--task", _TASK,
    ]  # fmt: skip
