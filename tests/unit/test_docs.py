# SPDX-License-Identifier: Apache-2.0
"""Every example in documents and help texts: commands parse, YAML loads, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from ruamel.yaml import YAML

from monitor.cli import ri_monitord
from monitor.cli.rictl import app
from monitor.daemon import config as configuration
from monitor.identity import delegations
from monitor.launch import options as launcher
from monitor.profile.catalog import Catalog
from monitor.profile.load import parse
from monitor.profile.resolve import resolve

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
FENCE = re.compile(r"^( *)```([a-z]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:rictl|ri-exec|ri-monitord|make) [^`]+)`")
LINK = re.compile(r"\[[^\]]+\]\(([^)#:]+)\)")
OURS = ("rictl", "ri-exec", "ri-monitord", "make")
SEPARATORS = {"|", "||", "&&", ";", "&", ">", ">>", "<"}


@dataclass(frozen=True)
class Example:
    """A command or YAML text, and where it stands."""

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place} {self.text.splitlines()[0]}"


def blocks(kind: str) -> Iterator[Example]:
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[2] == kind:
                line = text.count("\n", 0, match.start()) + 1
                lines = [each.removeprefix(match[1]) for each in match[3].splitlines()]
                yield Example(f"{path.relative_to(ROOT)}:{line}", "\n".join(lines) + "\n")


def command_lines() -> Iterator[Example]:
    for block in blocks("console"):
        for line in block.text.splitlines():
            if line.startswith("$ "):
                yield Example(block.place, line[2:])
    for path in DOCUMENTS:
        # Commands in indented blocks: `    make demo     # what it does`.
        text = FENCE.sub("", path.read_text(encoding="utf-8"))
        for line in text.splitlines():
            words = line.strip().split()
            if line.startswith("    ") and words and words[0] in OURS:
                yield Example(str(path.relative_to(ROOT)), line.strip())


def help_examples() -> Iterator[Example]:
    texts = {"ri-exec --help": launcher.HELP, "ri-monitord --help": ri_monitord.EPILOG}
    for words, command in leaves(typer.main.get_command(app), "rictl"):
        texts[f"{words} --help"] = (command.help or "") + "\n" + (command.epilog or "")
    for place, text in texts.items():
        _, _, listed = text.partition("examples:\n")
        for line in listed.splitlines():
            if line.startswith("  "):
                # Two spaces or more stand before what it does.
                yield Example(place, re.split(r" {2,}", line.strip())[0])


def leaves(command: Any, words: str) -> Iterator[tuple[str, Any]]:
    yield words, command
    for name, each in getattr(command, "commands", {}).items():
        yield from leaves(each, f"{words} {name}")


def simple_commands(line: str) -> Iterator[list[str]]:
    """The commands of a shell line, without sudo and assignments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    command: list[str] = []
    for word in [*lexer, ";"]:
        if word in SEPARATORS:
            while command and (command[0] == "sudo" or re.match(r"[A-Z_]+=", command[0])):
                command.pop(0)
            if command:
                yield command
            command = []
        else:
            command.append(word)


def understand(command: list[str]) -> None:
    """Give a command to the parser that would read it; raises what that raises."""
    program, arguments = command[0], command[1:]
    if program == "rictl":
        context: Any = None
        parser: Any = typer.main.get_command(app)
        words = ["rictl", *arguments]
        while True:
            context = parser.make_context(words[0], words[1:], parent=context)
            rest = [*context._protected_args, *context.args]
            if not getattr(parser, "commands", None) or not rest:
                return
            _, parser, _ = parser.resolve_command(context, rest)
            words = rest
    elif program == "ri-exec":
        parsed = launcher.parse(arguments)
        assert parsed.done or parsed.command
    elif program == "ri-monitord":
        ri_monitord.parser().parse_args(arguments)
    elif program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(arguments) <= {*targets}, f"{arguments} is no target"


@pytest.mark.parametrize("example", [*command_lines(), *help_examples()], ids=str)
def test_commands_are_understood(example: Example) -> None:
    for command in simple_commands(example.text):
        if Path(command[0]).name in OURS:
            understand(command)


def test_examples_were_found() -> None:
    """A change of form must not turn the tests above into nothing."""
    lines = [each.text for each in command_lines()]
    assert any(line.startswith("rictl explain") for line in lines)
    assert any(line.startswith("ri-exec") for line in lines)
    assert any(line.startswith("make") for line in lines)
    assert len(list(help_examples())) > 20
    assert len(list(blocks("yaml"))) >= 5


@pytest.mark.parametrize(
    "command",
    ["rictl pss", "rictl log --verdict", "rictl explain x", "ri-exec --what -- x", "make nothing"],
)
def test_what_is_wrong_would_be_noticed(command: str) -> None:
    with pytest.raises((Exception, SystemExit)):
        understand(command.split())


def inline_commands() -> Iterator[Example]:
    for path in DOCUMENTS:
        text = FENCE.sub("", path.read_text(encoding="utf-8"))
        for match in INLINE.finditer(text):
            yield Example(str(path.relative_to(ROOT)), match[1])


@pytest.mark.parametrize("example", [*inline_commands()], ids=str)
def test_commands_in_sentences_exist(example: Example) -> None:
    """In prose FILE and EVENT stand for values: the words and the options must exist."""
    program, *words = example.text.split()
    if program == "make":
        understand([program, *words])
        return
    if program == "rictl":
        parser: Any = typer.main.get_command(app)
        while words and words[0] in getattr(parser, "commands", {}):
            parser = parser.commands[words.pop(0)]
        assert not getattr(parser, "commands", {}) or not words or words[0].startswith("-")
        known = {option for each in parser.params for option in each.opts} | {"--help"}
    else:
        known = set(re.findall(r"--[a-z]+", launcher.HELP + ri_monitord.parser().format_help()))
    for word in words:
        if word.startswith("--") and word != "--":
            assert word in known, f"{example.place}: {program} has no {word}"


@pytest.mark.parametrize("example", [*blocks("yaml")], ids=lambda each: each.place)
def test_yaml_loads(example: Example, tmp_path: Path) -> None:
    document = YAML(typ="safe").load(example.text)
    assert isinstance(document, dict)
    if "name" in document:
        profile = parse(example.text, example.place)
        assert resolve(profile, Catalog([ROOT / "profiles"]).load)
    elif "delegations" in document:
        assert delegations.parse(example.text, example.place).entries
    else:
        file = tmp_path / "config.yaml"
        file.write_text(example.text)
        configuration.load(file)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_named_files_exist(path: Path) -> None:
    """`monitor/policy/plan.py` in a sentence is a file of this repository."""
    folders = "|".join(("monitor", "docs", "packaging", "probes", "tests", "profiles"))
    for named in re.findall(rf"`((?:{folders})/[A-Za-z0-9_./-]+)`", path.read_text("utf-8")):
        known = (ROOT / named).exists() or (ROOT / f"{named}.py").exists()
        assert known, f"{path.name} names {named}"


def test_the_example_of_the_man_page_is_that_of_the_readme() -> None:
    readme = next(each.text for each in blocks("yaml") if each.place.startswith("README"))
    page = (ROOT / "packaging" / "manpages.py").read_text(encoding="utf-8")
    assert readme.partition("\n")[2] in page
