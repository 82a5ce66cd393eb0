# SPDX-License-Identifier: Apache-2.0
"""Writes the man pages, from what --help prints and what the profile's models say of themselves.

usage: manpages.py FOLDER        rictl.1, ri-exec.1, ri-monitord.8, ri-profile.5 in FOLDER
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_origin

import helptext
from helptext import Entry, HelpText

PAGES = {"rictl": 1, "ri-exec": 1, "ri-monitord": 8, "ri-profile": 5}
MANUAL = "Runtime identity for AI agents"
SPECIAL = re.compile(r"[\\\-]")
QUOTED = re.compile(r"`([^`]+)`")

FILES = (
    Entry("/etc/ri/config.yaml", "the daemon's configuration"),
    Entry("/etc/ri/delegations.yaml", "who may start sessions and make grants, by which profiles"),
    Entry("/etc/ri/keys/host.key", "the key that signs this host's grants, for root alone"),
    Entry("/etc/ri/keys/trusted/NAME.pub", "keys of other hosts whose grants count here"),
    Entry("/etc/ri/profiles/NAME.yaml", "this host's profiles; they come before the shipped ones"),
    Entry("/run/ri/ri.sock", "socket of the API; launch.sock beside it is ri-exec's"),
    Entry("/var/lib/ri", "the audit log and the registry of sessions"),
)


def roff(text: str) -> str:
    """`text` so that roff prints it as it stands; `quoted` words in bold."""
    escaped = SPECIAL.sub(lambda match: "\\" + ("e" if match[0] == "\\" else "-"), text)
    bold = QUOTED.sub(r"\\fB\1\\fR", escaped)
    # A line that begins with a dot or an apostrophe is a request.
    return re.sub(r"(?m)^([.'])", r"\\&\1", bold)


def title(name: str, sentence: str) -> Iterator[str]:
    from monitor import __version__

    yield f'.TH {name.upper()} {PAGES[name]} "" "ri {__version__}" "{MANUAL}"'
    # Words are neither hyphenated nor spread: commands are copied from here.
    yield ".nh"
    yield ".ad l"
    yield ".SH NAME"
    yield f"{roff(name)} \\- {roff(sentence)}"


def paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        yield ".PP"
        yield roff(" ".join(paragraph.split()))


def entries(listed: Iterable[Entry]) -> Iterator[str]:
    for entry in listed:
        yield ".TP"
        yield f"\\fB{roff(entry.term)}\\fR"
        yield roff(entry.text) or "\\&"


def literal(text: str) -> Iterator[str]:
    yield ".PP"
    yield ".nf"
    yield ".RS 4"
    yield roff(text.rstrip("\n"))
    yield ".RE"
    yield ".fi"


def see_also(name: str) -> Iterator[str]:
    yield ".SH SEE ALSO"
    others = [each for each in PAGES if each != name]
    for each in others:
        comma = "" if each == others[-1] else " ,"
        yield f".BR {roff(each)} ({PAGES[each]}){comma}"


def command_page(text: HelpText, sentence: str) -> Iterator[str]:
    """The page of a command with one level of options."""
    yield from title(text.name, sentence)
    yield ".SH SYNOPSIS"
    yield f".B {roff(text.name)}"
    yield roff(text.usage)
    yield ".SH DESCRIPTION"
    yield from paragraphs(text.description)
    for heading, listed in text.sections.items():
        yield f".SH {heading.upper()}"
        yield from entries(listed)
    yield ".SH FILES"
    yield from entries(FILES)
    yield from see_also(text.name)


# -- rictl -----------------------------------------------------------------------------------------


def rictl_page() -> Iterator[str]:
    import typer

    from monitor.cli.rictl import app

    command: Any = typer.main.get_command(app)
    whole = helptext.parse("rictl", "\n\n".join(("usage: rictl", _unindented(command.epilog))))
    yield from title("rictl", _sentence(command.help))
    yield ".SH SYNOPSIS"
    yield ".B rictl"
    yield roff("[--socket PATH] COMMAND [ARGUMENT ...]")
    yield ".SH DESCRIPTION"
    yield from paragraphs(command.help)
    yield from paragraphs("What a command prints is meant for people; `--json` is for programs.")
    yield ".SH OPTIONS"
    yield from entries(_options(command))
    yield ".SH COMMANDS"
    for words, each in _leaves("", command):
        yield from _subcommand(words, each)
    for heading, listed in whole.sections.items():
        yield f".SH {heading.upper()}"
        yield from entries(listed)
    yield ".SH FILES"
    yield from entries(FILES)
    yield from see_also("rictl")


def _leaves(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its words: `log`, `log verify`, `profile check`."""
    for name, each in command.commands.items():
        path = f"{words} {name}".strip()
        children = getattr(each, "commands", {})
        if not children or each.invoke_without_command:
            yield path, each
        if children:
            yield from _leaves(path, each)


def _subcommand(words: str, command: Any) -> Iterator[str]:
    arguments = [
        each.metavar or each.name.upper()
        for each in command.params
        if each.param_type_name == "argument"
    ]
    yield f".SS {roff(' '.join((words, *arguments, '[OPTION ...]')))}"
    body, _, listed = (command.help or "").replace("\b", "").partition("examples:\n")
    yield from paragraphs(body.strip())
    yield from entries(_arguments(command))
    yield from entries(_options(command))
    if listed:
        yield from literal(_unindented(listed))


def _arguments(command: Any) -> Iterator[Entry]:
    for each in command.params:
        if each.param_type_name == "argument" and each.help:
            yield Entry(each.metavar or each.name.upper(), each.help)


def _options(command: Any) -> Iterator[Entry]:
    for each in command.params:
        if each.param_type_name == "option":
            value = "" if each.is_flag else f" {each.metavar}"
            yield Entry(f"{', '.join(sorted(each.opts, key=len))}{value}", each.help or "")


def _sentence(text: str) -> str:
    return " ".join(text.split("\n\n", maxsplit=1)[0].split()).rstrip(".")


def _unindented(text: str) -> str:
    lines = text.replace("\b\n", "").replace("\b", "").splitlines()
    return "\n".join(lines).strip("\n")


# -- ri-profile ------------------------------------------------------------------------------------

EXAMPLE = """\
name: my-agent
include: [base]                     # what any dynamically linked program needs
files:
  read: ["{workspace}/**"]
  write: ["{workspace}/**"]
  read_only: ["{workspace}/.git/hooks"]
  deny: ["{workspace}/.env"]
network:
  connect: ["127.0.0.1:8080"]
"""


def profile_page() -> Iterator[str]:
    from monitor.profile import model, variables

    yield from title("ri-profile", "what an agent may do")
    yield ".SH DESCRIPTION"
    yield from paragraphs(
        "A profile is a YAML file. What it does not list is denied; an empty list denies all. A"
        " deny rule beats an ask rule, and an ask rule an allow rule, wherever they stand. A key"
        " that is not described here is an error with its line and column."
    )
    yield from paragraphs(_rest(model.Profile))
    yield from literal(EXAMPLE)
    yield from paragraphs("`rictl profile check FILE` says whether a profile is right.")
    yield ".SH KEYS"
    sections = []
    for key, field in model.Profile.model_fields.items():
        if field.exclude:
            continue
        section = _section(field.annotation)
        if section is None:
            yield from entries([Entry(key, _described(field))])
        else:
            sections.append((key, section))
            yield from entries([Entry(key, f"Section, see below. {_sentence(section.__doc__)}.")])
    for key, section in sections:
        name = ".NAME" if get_origin(model.Profile.model_fields[key].annotation) is dict else ""
        yield f".SH SECTION {key.upper()}{name}"
        yield from paragraphs(section.__doc__ or "")
        shown = {name: each for name, each in section.model_fields.items() if not each.exclude}
        yield from entries(Entry(name, _described(each)) for name, each in shown.items())
    yield ".SH RULES"
    for name, words in _WORDS.items():
        rule = getattr(model, name)
        yield f".SS {words}"
        yield from paragraphs(rule.__doc__ or "")
        shown = {key: each for key, each in rule.model_fields.items() if not each.exclude}
        if list(shown) not in (["path"], ["to"]):  # a rule that is mere text
            yield from entries(Entry(key, _described(each)) for key, each in shown.items())
    yield ".SH VARIABLES"
    yield from entries(Entry(f"{{{name}}}", _VARIABLES[name]) for name in variables.NAMES)
    yield ".SH FILES"
    yield from entries(FILES)
    yield from see_also("ri-profile")


_WORDS = {
    "PathRule": "Paths",
    "NetworkRule": "Addresses",
    "UnixRule": "Unix sockets",
    "ExecRule": "Programs",
    "AskPathRule": "Files that are asked about",
    "AskNetworkRule": "Addresses that are asked about",
    "LabelThen": "What follows from a label (then)",
    "LabelNetwork": "What a label leaves of the network (then.network)",
    "TimeWindow": "Times (conditions.time)",
    "RiskRule": "Steps of a risk score (signals.risk_score)",
}
_VARIABLES = {
    "workspace": "the folder that `ri-exec --workspace` names, or its working directory",
    "home": "the home folder of the user as whom CMD runs",
    "session": "the session's id",
    "uid": "the number of the user as whom CMD runs",
}


def _rest(model: Any) -> str:
    """A model's docstring without its first paragraph and what is for programmers."""
    parts = (model.__doc__ or "").split("\n\n")[1:]
    return "\n\n".join(part for part in parts if "load.py" not in part)


def _section(annotation: Any) -> Any:
    """The model of a section, None for a plain value."""
    from monitor.profile.model import Model

    for each in getattr(annotation, "__args__", (annotation,)):
        if isinstance(each, type) and issubclass(each, Model) and each.__name__.endswith("Section"):
            return each
    return None


def _described(field: Any) -> str:
    text = field.description or ""
    default = field.get_default(call_default_factory=True) if not field.is_required() else None
    if isinstance(default, str) and default:
        text += f" Default: `{default}`."
    return f"Required. {text}" if field.is_required() else text


def pages() -> dict[str, str]:
    """Each page's text, by file name."""
    made = {
        "rictl": rictl_page(),
        "ri-exec": command_page(helptext.ri_exec(), "run a program as an agent under a profile"),
        "ri-monitord": command_page(
            helptext.ri_monitord(), "enforce and record what AI agents do on this host"
        ),
        "ri-profile": profile_page(),
    }
    return {f"{name}.{PAGES[name]}": "\n".join(lines) + "\n" for name, lines in made.items()}


def main() -> int:
    if len(sys.argv) != 2:
        sys.stderr.write(__doc__ or "")
        return 2
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
