# SPDX-License-Identifier: Apache-2.0
"""The layout: imports point down, files are short, each says its licence and what it is for."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 500
LONGEST_TEST = 800  # cases side by side read better than spread over files

# What each room may import of `monitor` (itself always); docs/architecture.md, "Rooms".
ALLOWED: dict[str, set[str]] = {
    "profile": {"resolver"},
    "identity": set(),
    "kernel": set(),
    "resolver": set(),
    "launch": set(),
    "prove": {"kernel"},  # it runs on hosts, through commands and the API
    "policy": {"profile", "identity", "resolver"},
    "wire": {"policy"},
    "session": {"identity", "policy"},
    "audit": {"session", "identity", "policy", "wire"},
    "daemon": {
        *("audit", "session", "identity", "policy", "profile", "wire", "kernel", "resolver"),
    },
}
ALLOWED["cli"] = {*ALLOWED, "cli"}
# The daemon speaks the launcher's protocol and shares its constants; nothing else of it.
EXCEPTIONS = {("daemon", "monitor.launch.protocol")}
# The daemon's own rooms: which of the others each may use, and which know nothing of the daemon
# around them.
DAEMON_ROOMS: dict[str, set[str]] = {
    "probes": set(),
    "view": set(),
    "resolver": set(),
    "launch": {"view"},
    "packets": set(),
    "asks": set(),
    "gate": {"probes"},
    "api": {"probes", "asks"},
}
STANDALONE = {"probes", "view", "resolver", "packets"}
# Kernel-facing and printing modules have no place in the pure rooms.
PURE = ("profile", "identity", "policy", "wire", "resolver")
EFFECTS = {"subprocess", "socket", "signal", "threading", "asyncio", "ctypes", "sqlite3"}
MIRROR = {"ctypes", "socket"}  # the wire mirrors C structs and knows the kernel's constants
# What the launcher's budget of milliseconds has no room for.
SLOW = {
    *("json", "socket", "struct", "pathlib", "argparse", "re", "dataclasses", "typing", "enum"),
    *("subprocess", "tempfile", "logging", "collections", "functools", "contextlib"),
}


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository, and new ones that are not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


def modules() -> list[Path]:
    return [path for path in tracked("monitor/*.py") if path.stat().st_size]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room(path: Path) -> str:
    parts = path.relative_to(ROOT / "monitor").parts
    return parts[0] if len(parts) > 1 else ""


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import, also those in functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, each.name) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno}: imports are absolute"
            module = node.module or ""
            # `from monitor.launch import protocol` names a module too.
            if module.startswith("monitor") and module.count(".") < 2:
                yield from ((node.lineno, f"{module}.{each.name}") for each in node.names)
            else:
                yield node.lineno, module


def test_every_room_is_known() -> None:
    rooms = {room(path) for path in tracked("monitor/*/__init__.py")}
    assert rooms == set(ALLOWED)


@pytest.mark.parametrize("path", modules(), ids=name)
def test_imports_point_down(path: Path) -> None:
    here = room(path)
    for line, module in imports(path):
        parts = module.split(".")
        if parts[0] != "monitor" or not here or parts[1] in {"__version__", here}:
            continue
        allowed = parts[1] in ALLOWED[here] or (here, module) in EXCEPTIONS
        assert allowed, f"{name(path)}:{line}: {here} may not import {module}"


def daemon_room(path: Path) -> str:
    parts = path.relative_to(ROOT / "monitor").parts
    return parts[1] if parts[0] == "daemon" and len(parts) > 2 else ""


def test_every_room_of_the_daemon_is_known() -> None:
    rooms = {daemon_room(path) for path in tracked("monitor/daemon/*/__init__.py")}
    assert rooms == set(DAEMON_ROOMS)


@pytest.mark.parametrize("path", [p for p in modules() if daemon_room(p)], ids=name)
def test_the_daemons_rooms_use_each_other_one_way(path: Path) -> None:
    here = daemon_room(path)
    for line, module in imports(path):
        parts = module.split(".")
        if parts[:2] != ["monitor", "daemon"] or len(parts) < 3 or parts[2] == here:
            continue
        allowed = parts[2] in DAEMON_ROOMS[here] or (
            parts[2] not in DAEMON_ROOMS and here not in STANDALONE
        )
        assert allowed, f"{name(path)}:{line}: daemon/{here} may not import {module}"


@pytest.mark.parametrize("path", [p for p in modules() if room(p) in PURE], ids=name)
def test_pure_rooms_have_no_effects(path: Path) -> None:
    effects = EFFECTS - MIRROR if room(path) == "wire" else EFFECTS
    for line, module in imports(path):
        assert module.split(".")[0] not in effects, f"{name(path)}:{line}: imports {module}"


@pytest.mark.parametrize("path", [p for p in modules() if room(p) == "launch"], ids=name)
def test_the_launcher_imports_the_standard_library_only(path: Path) -> None:
    for line, module in imports(path):
        top = module.split(".")[0]
        assert top == "monitor" or top in sys.stdlib_module_names, f"{name(path)}:{line}: {module}"
        assert top not in SLOW, f"{name(path)}:{line}: {module} takes too long to import"


@pytest.mark.parametrize("path", [p for p in modules() if room(p) not in {"cli", ""}], ids=name)
def test_only_commands_print_or_exit(path: Path) -> None:
    programs = {"keeper.py", "loader.py", "worker.py", "ri_exec.py", "api.py"}
    if path.parent.name == "programs":
        return  # each is a command of its own
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if path.name in programs or _to_standard_error(node):
                continue
            assert node.func.id not in {"print", "exit", "input"}, f"{name(path)}:{node.lineno}"


def _to_standard_error(call: ast.Call) -> bool:
    """The daemon's own messages go to the service manager's journal."""
    return any(each.arg == "file" for each in call.keywords)


@pytest.mark.parametrize("path", tracked("*.py"), ids=name)
def test_python_files_say_what_they_are(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.is_relative_to(ROOT / "demo" / "project"):
        return  # the agent works on it: it looks like anybody's
    lines = text.splitlines()
    longest = LONGEST_TEST if path.is_relative_to(ROOT / "tests") else LONGEST
    assert len(lines) <= longest, f"{name(path)} has {len(lines)} lines"
    shown = lines[1] if lines and lines[0].startswith("#!") else lines[0]
    assert shown.startswith("# SPDX-License-Identifier: Apache-2.0"), name(path)
    summary = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0]
    assert summary.endswith((".", ":", "?", "…")), f"{name(path)} begins with {summary!r}"


@pytest.mark.parametrize(
    "path",
    tracked("*.c", "*.h", "*.yaml", "*.sh", "*.service", "packaging/*", ".ci/*", "Makefile"),
    ids=name,
)
def test_other_files_say_their_licence(path: Path) -> None:
    if path.suffix in {".txt", ".py"}:
        return  # pip writes the locks
    head = "\n".join(path.read_text(encoding="utf-8").splitlines()[:2])
    wanted = "Apache-2.0 OR GPL-2.0" if path.is_relative_to(ROOT / "probes") else "Apache-2.0"
    assert f"SPDX-License-Identifier: {wanted}" in head, name(path)


def test_licence_texts_are_whole() -> None:
    apache = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in apache
    assert "END OF TERMS AND CONDITIONS" in apache
    gpl = (ROOT / "LICENSES" / "GPL-2.0.txt").read_text(encoding="utf-8")
    assert "GNU GENERAL PUBLIC LICENSE" in gpl
    assert "Version 2, June 1991" in gpl
