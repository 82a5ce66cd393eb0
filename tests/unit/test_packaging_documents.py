# SPDX-License-Identifier: Apache-2.0
"""Man pages and completions: made without a warning, and complete."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from monitor.cli.ri_monitord import parser
from monitor.cli.rictl import app
from monitor.launch.options import HELP
from monitor.profile.model import Profile

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("rictl.1", "ri-exec.1", "ri-monitord.8", "ri-profile.5")


def make(script: str, folder: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-B", ROOT / "packaging" / script, folder], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


@pytest.fixture(scope="module")
def man(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("manpages.py", tmp_path_factory.mktemp("man"))


@pytest.fixture(scope="module")
def completions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("completions.py", tmp_path_factory.mktemp("completions"))


def rendered(page: Path) -> str:
    """The page as plain text; asserts that the formatter has nothing to complain about."""
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-Tutf8", "-P", "cat", "-l", page],
        env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin", "MANWIDTH": "100"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return re.sub(".\x08", "", done.stdout)  # bold by typing a letter twice


def leaves(command: Any, words: str = "") -> Iterator[tuple[str, Any]]:
    for name, each in getattr(command, "commands", {}).items():
        path = f"{words} {name}".strip()
        yield path, each
        yield from leaves(each, path)


def test_every_page_is_clean(man: Path) -> None:
    assert sorted(path.name for path in man.iterdir()) == sorted(PAGES)
    for page in PAGES:
        text = rendered(man / page)
        assert "NAME" in text
        assert "SEE ALSO" in text


def test_rictl_has_every_command_and_option(man: Path) -> None:
    text = rendered(man / "rictl.1")
    for words, command in leaves(typer.main.get_command(app)):
        if not hasattr(command, "commands"):
            assert f"\n   {words} " in text
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("-"):
                    assert option in text
    for status in ("cannot be reached", "usage", "RI_SOCKET", "rictl profile check coder.yaml"):
        assert status in text


def test_ri_exec_has_every_option(man: Path) -> None:
    text = rendered(man / "ri-exec.1")
    options = {word.strip(",") for word in HELP.split() if word.startswith("--") and len(word) > 2}
    assert len(options) > 5
    for option in options | {"125", "126", "127", "{workspace}"}:
        assert option in text


def test_ri_monitord_has_every_option(man: Path) -> None:
    text = rendered(man / "ri-monitord.8")
    for action in parser()._actions:
        for option in action.option_strings:
            assert option in text


def test_ri_profile_has_every_key(man: Path) -> None:
    text = rendered(man / "ri-profile.5")
    for key, field in Profile.model_fields.items():
        if field.exclude:
            continue
        assert f"\n       {key}" in text
        for part in getattr(field.annotation, "__args__", ()):
            for inner, details in getattr(part, "model_fields", {}).items():
                assert f"\n       {inner}" in text
                assert details.description
                assert details.description.split()[0].strip("`") in text


@pytest.mark.parametrize("name", ["rictl", "ri-exec", "ri-monitord"])
def test_bash_completions_can_be_read(completions: Path, name: str) -> None:
    done = subprocess.run(
        ["bash", "-euc", f". {completions}/bash/{name}; complete -p {name}"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_each_shell_knows_every_option_of_the_launcher(completions: Path) -> None:
    options = {word for word in HELP.split() if word.startswith("--") and word.strip("-,")}
    for place, form in (("bash/ri-exec", "{}"), ("zsh/_ri-exec", "{}["), ("fish/ri-exec.fish", "")):
        text = (completions / place).read_text()
        for option in options:
            wanted = form.format(option) if form else f"-l {option[2:]}"
            assert wanted in text


def test_without_a_folder_the_usage_is_printed() -> None:
    for script in ("manpages.py", "completions.py"):
        done = subprocess.run(
            [sys.executable, "-B", ROOT / "packaging" / script], capture_output=True, text=True
        )
        assert done.returncode == 2
        assert "usage:" in done.stderr
