# SPDX-License-Identifier: Apache-2.0
"""Tables of figures: measured, asked, met or missed by how much."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.measure import Series
from bench.tools import Wrapper

_LEAST_WIDTH = 130
_NANOSECONDS = {"us": 1e3, "ms": 1e6}


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure that is asked for; `at_least` turns the comparison round."""

    name: str
    measured: float
    asked: float
    unit: str
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.measured >= self.asked if self.at_least else self.measured <= self.asked

    def verdict(self) -> Text:
        if self.met:
            return Text("met", style="green")
        if not self.asked:
            return Text("missed", style="bold red")
        factor = self.asked / self.measured if self.at_least else self.measured / self.asked
        return Text(f"missed by {(factor - 1) * 100:.0f} %", style="bold red")


def _print(table: Table) -> None:
    width = max(shutil.get_terminal_size().columns, _LEAST_WIDTH)
    Console(width=width).print(table)


def show_figures(title: str, figures: Sequence[Figure]) -> None:
    """A line per figure, without columns of other wrappers."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("figure", "measured", "asked", ""):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for figure in figures:
        sign = ">=" if figure.at_least else "<="
        table.add_row(
            figure.name,
            f"{figure.measured:,.4g} {figure.unit}",
            f"{sign} {figure.asked:,g} {figure.unit}",
            figure.verdict(),
        )
    _print(table)


def figure_of(series: Series, column: str) -> Figure:
    """The asked figure of a load, measured in `column`."""
    load = series.load
    if load.added:
        added = series.added_milliseconds(column, load.against)
        return Figure(f"{load.name} ({column})", added, load.asked, "ms added")
    ratio = series.ratio(column, load.against)
    return Figure(load.name, ratio, load.asked, f"x {load.against}")


def show_series(
    title: str, measured: Sequence[Series], wrappers: Sequence[Wrapper], judged: str
) -> list[Figure]:
    """Every column's median with its ratio to the first; what is asked is judged in `judged`."""
    first = wrappers[0].name
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("load")
    for wrapper in wrappers:
        table.add_column(wrapper.name, justify="right")
    for heading in ("asked of " + judged, "measured", ""):
        table.add_column(heading, justify="right")
    figures = []
    for series in measured:
        figure = figure_of(series, judged)
        figures.append(figure)
        table.add_row(
            series.load.name,
            *(_cell(series, wrapper.name, first) for wrapper in wrappers),
            f"<= {figure.asked:g} {figure.unit}",
            f"{figure.measured:.2f}",
            figure.verdict(),
        )
    _print(table)
    return figures


def _cell(series: Series, column: str, first: str) -> str:
    unit = series.load.unit
    value = f"{series.median(column) / _NANOSECONDS[unit]:.2f} {unit}"
    return value if column == first else f"{value} {series.ratio(column, first):5.2f}x"
