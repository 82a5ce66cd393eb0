# SPDX-License-Identifier: Apache-2.0
"""A copy of the checkout, in which controls are switched off; the checkout stays as it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mutate.mutant import Mutant

ROOT = Path(__file__).resolve().parents[1]
ROW_SECONDS = 900
TEST_SECONDS = 1800
CLEAN_SECONDS = 60
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


class TrialFailed(Exception):
    """What was to be tried could not be: the message says why."""


@dataclass(frozen=True, slots=True)
class Found:
    """What became of one row: its result, what was told, by which mechanism."""

    result: str
    told: str
    mechanism: str | None


@dataclass(frozen=True, slots=True)
class Tree:
    """The copy at `folder`."""

    folder: Path

    @classmethod
    def copy(cls, folder: Path) -> Tree:
        """Copy what git knows, as it is now; the environment is shared."""
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
        for name in map(os.fsdecode, filter(None, listed.split(b"\0"))):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        (folder / ".venv").symlink_to(ROOT / ".venv")
        # Some tests ask git which files there are.
        for words in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)
        return cls(folder)

    @contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        """With the control switched off. Stale."""
        paths = {edit.path for edit in mutant.edits}
        before = {path: (self.folder / path).read_bytes() for path in paths}
        try:
            for edit in mutant.edits:
                edit.apply(self.folder)
            yield
        finally:
            for path, content in before.items():
                (self.folder / path).write_bytes(content)

    def rows(self, rows: Sequence[int] = ()) -> dict[str, Found]:
        """What --prove says, by row and technique; all rows where none is named. TrialFailed."""
        command = [".venv/bin/python", "-B", "-m", "mutate.trial", *map(str, rows)]
        try:
            done = self._run(command, ROW_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise TrialFailed(f"--prove did not end within {ROW_SECONDS} s") from error
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no word of why"]
            raise TrialFailed(lines[-1])
        return {
            f"{each['row']} {each['technique']}": Found(
                each["result"], each["outcome"], each["mechanism"]
            )
            for each in json.loads(done.stdout)["attempts"]
        }

    def tests(self, tests: Sequence[str]) -> str | None:
        """The first test that fails, None where none does. TrialFailed."""
        options = ["-q", "-x", "--no-header"]
        command = [".venv/bin/python", "-B", "-m", "pytest", *options, *tests]
        try:
            done = self._run(command, TEST_SECONDS)
        except subprocess.TimeoutExpired:
            return f"{tests[0]} (it never ended)"
        if done.returncode == 0:
            return None
        found = _FAILED.search(done.stdout)
        if done.returncode != 1 or found is None:
            raise TrialFailed((done.stdout + done.stderr).strip()[-300:])
        return found[1]

    def _run(self, command: list[str], seconds: int) -> subprocess.CompletedProcess[str]:
        """Run to its end; interrupted or too late, it takes down what it has made itself."""
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        try:
            output, errors = process.communicate(timeout=seconds)
        except BaseException:
            process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=CLEAN_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
            raise
        return subprocess.CompletedProcess(command, process.returncode, output, errors)
