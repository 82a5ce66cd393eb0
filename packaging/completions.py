# SPDX-License-Identifier: Apache-2.0
"""Writes the shell completions: rictl's as typer makes them, the others' from their help texts.

usage: completions.py FOLDER     bash/NAME, zsh/_NAME, fish/NAME.fish in FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import helptext
from helptext import Entry, HelpText

FILE_VALUES = ("FILE", "NAME|FILE", "PATH")
FOLDER_VALUES = ("DIR",)
USER_VALUES = {"--user"}
PLACES = {"bash": "bash/{}", "zsh": "zsh/_{}", "fish": "fish/{}.fish"}


def options(text: HelpText) -> list[Entry]:
    return [entry for entry in text.sections["options"] if entry.term.startswith("-")]


def runs_a_command(text: HelpText) -> bool:
    return "CMD" in text.usage


def bash(text: HelpText) -> str:
    """Options before the command, the command's own completion after it."""
    words = " ".join(flag for entry in options(text) for flag in entry.flags)
    valued = [entry for entry in options(text) if entry.metavar]
    function = f"_{text.name.replace('-', '_')}"
    cases = []
    for kind, action in (
        ("file", "compgen -f"),
        ("folder", "compgen -d"),
        ("user", "compgen -u"),
    ):
        flags = [flag for entry in valued if _kind(entry) == kind for flag in entry.flags]
        if flags:
            cases.append(
                f"        {'|'.join(flags)}) "
                f'mapfile -t COMPREPLY < <({action} -- "$word"); return ;;'
            )
    others = [flag for entry in valued if not _kind(entry) for flag in entry.flags]
    if others:
        cases.append(f"        {'|'.join(others)}) return ;;")
    with_value = "|".join(flag for entry in valued for flag in entry.flags)
    command = [
        "    local i",
        "    for ((i = 1; i < COMP_CWORD; i++)); do",
        '        case "${COMP_WORDS[i]}" in',
        f"        {with_value}) ((i++)) ;;",
        "        --) _command_offset $((i + 1)); return ;;",
        "        -*) ;;",
        '        *) _command_offset "$i"; return ;;',
        "        esac",
        "    done",
    ]
    lines = [
        f"# bash completion for {text.name}",
        f"{function}() {{",
        '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD - 1]}"',
        *(command if runs_a_command(text) else []),
        '    case "$before" in',
        *cases,
        "    esac",
        "    if [[ $word == -* ]]; then",
        f'        mapfile -t COMPREPLY < <(compgen -W "{words}" -- "$word")',
        *(
            ["    else", '        mapfile -t COMPREPLY < <(compgen -c -- "$word")']
            if runs_a_command(text)
            else []
        ),
        "    fi",
        "}",
        f"complete -o filenames -F {function} {text.name}",
    ]
    return "\n".join(lines) + "\n"


def zsh(text: HelpText) -> str:
    actions = {"file": "_files", "folder": "_files -/", "user": "_users", "": " "}
    specs = []
    for entry in options(text):
        action = f":{_quoted(entry.metavar)}:{actions[_kind(entry)]}" if entry.metavar else ""
        for flag in entry.flags:
            said = _quoted(entry.text).replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
            specs.append(f"'{flag}[{said}]{action}'")
    if runs_a_command(text):
        specs.append("'(-)1:command:_command_names -e'")
        specs.append("'*::arguments:_normal'")
    joined = " \\\n    ".join(["_arguments -S", *specs])
    return f"#compdef {text.name}\n{joined}\n"


def fish(text: HelpText) -> str:
    actions = {
        "file": " -r -F",
        "folder": " -x -a '(__fish_complete_directories)'",
        "user": " -x -a '(__fish_complete_users)'",
        "": " -x",
    }
    lines = [f"# fish completion for {text.name}"]
    if runs_a_command(text):
        lines.append(f"complete -c {text.name} -x -a '(__fish_complete_subcommand)'")
    else:
        lines.append(f"complete -c {text.name} -f")
    for entry in options(text):
        flags = "".join(
            f" -l {flag[2:]}" if flag.startswith("--") else f" -s {flag[1:]}"
            for flag in entry.flags
        )
        action = actions[_kind(entry)] if entry.metavar else ""
        said = entry.text.replace("\\", "\\\\").replace("'", "\\'")
        lines.append(f"complete -c {text.name}{flags}{action} -d '{said}'")
    return "\n".join(lines) + "\n"


def _kind(entry: Entry) -> str:
    if entry.metavar in FILE_VALUES:
        return "file"
    if entry.metavar in FOLDER_VALUES:
        return "folder"
    return "user" if USER_VALUES & set(entry.flags) else ""


def _quoted(text: str) -> str:
    """For single quotes of a POSIX shell."""
    return text.replace("'", "'\\''")


MAKERS: dict[str, Callable[[HelpText], str]] = {"bash": bash, "zsh": zsh, "fish": fish}


def scripts() -> dict[str, str]:
    """Each script's text, by its place."""
    from typer.completion import get_completion_script

    made = {}
    for shell, place in PLACES.items():
        for text in (helptext.ri_exec(), helptext.ri_monitord()):
            made[place.format(text.name)] = MAKERS[shell](text)
        script = get_completion_script(
            prog_name="rictl", complete_var="_RICTL_COMPLETE", shell=shell
        )
        made[place.format("rictl")] = script.strip() + "\n"
    return made


def main() -> int:
    if len(sys.argv) != 2:
        sys.stderr.write(__doc__ or "")
        return 2
    for place, text in scripts().items():
        file = Path(sys.argv[1]) / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
