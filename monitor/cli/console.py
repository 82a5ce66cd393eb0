# SPDX-License-Identifier: Apache-2.0
"""What commands print: text safe for a terminal, JSON, tables. Rich is imported for tables only.

Names in records are chosen by agents: a control character or an escape sequence in one must not
reach the terminal of the person who reads the log.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Any

# So wide that nothing is folded or cut where the output is not a terminal.
UNBOUNDED = 1_000_000
STYLES = {
    "allow": "green",
    "deny": "red",
    "kill": "bold red",
    "ask": "yellow",
    "would-deny": "yellow",
    "running": "green",
    "frozen": "cyan",
    "revoked": "red",
    "expired": "red",
    "ending": "yellow",
    "launching": "yellow",
    "yes": "green",
    "no": "red",
    "error": "red",
    "warning": "yellow",
}


def prepare() -> None:
    """Make the standard streams take every text, whatever the locale's encoding.

    One that was closed by whoever started us becomes the null device: Python has None there.
    """
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def visible(text: object, keep: str = "") -> str:
    """`text` with all but printable characters (and those in `keep`) written as escapes."""
    return "".join(
        each if each.isprintable() or each in keep else _escape(each) for each in str(text)
    )


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as os.fsdecode holds it
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def is_terminal() -> bool:
    return sys.stdout.isatty()


def columns() -> int:
    """The terminal's width; where there is none, more than anything needs."""
    import shutil

    return shutil.get_terminal_size().columns if is_terminal() else UNBOUNDED


def colourful() -> bool:
    """Colours only on a terminal that has them, and whose owner wants them."""
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def line(text: object = "") -> None:
    sys.stdout.write(visible(text, "\n\t") + "\n")


def raw(text: str) -> None:
    """A line whose parts are already safe to print."""
    sys.stdout.write(text + "\n")


def document(value: Any) -> None:
    """One JSON document, indented for people, in ASCII so that every locale can print it."""
    import json

    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def json_line(value: Any) -> None:
    """One JSON object on one line."""
    import json

    sys.stdout.write(json.dumps(value, separators=(", ", ": ")) + "\n")


def flush() -> None:
    sys.stdout.flush()


def note(text: str) -> None:
    """A remark beside the output proper."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"rictl: {visible(text)}\n")


def failure(message: str, hint: str = "") -> None:
    """What failed, and what to do about it on its own line."""
    with contextlib.suppress(OSError):
        sys.stderr.write("".join(f"rictl: {visible(each)}\n" for each in message.splitlines()))
        if hint:
            sys.stderr.write(f"hint: {visible(hint)}\n")


def table(
    names: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Collection[str] = (),
    whole: Collection[str] = (),
) -> None:
    """A table. Columns in `right` are aligned there; those in `whole` are never folded."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for name in names:
        made.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=name in whole,
            overflow="fold",
        )
    for row in rows:
        cells = [visible(each) for each in row]
        made.add_row(*(Text(each, style=STYLES.get(each, "")) for each in cells))
    foldable = is_terminal() and any(name not in whole for name in names)
    console = Console(
        width=columns() if foldable else UNBOUNDED,
        height=UNBOUNDED,  # without one, Rich takes 80 columns where TERM is dumb
        no_color=not colourful(),
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    with console.capture() as captured:
        console.print(made)
    for each in captured.get().splitlines():
        sys.stdout.write(each.rstrip() + "\n")


def styled(text: str, style: str) -> str:
    """`text` in a style of STYLES where colours are wanted."""
    codes = {"green": "32", "red": "31", "bold red": "1;31", "yellow": "33", "cyan": "36"}
    code = codes.get(STYLES.get(style, ""))
    return f"\x1b[{code}m{text}\x1b[0m" if code and colourful() else text
