# SPDX-License-Identifier: Apache-2.0
"""The command behind `make bench`: measures every figure of the cost table, side by side."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import (
    corpus,
    load,
    measure,
    names,
    opens,
    resolver,
    revocation,
    table,
    tools,
    upkeep,
)
from bench.corpus import Corpus
from bench.failure import BenchError
from bench.measure import Runner, Series
from bench.table import Figure
from bench.tools import BARE, Wrapper
from demo import account, governed
from demo.account import Account
from demo.failure import DemoError
from demo.governed import Daemon

_CACHE = governed.ROOT / ".cache" / "bench"
_RESULTS = governed.ROOT / "bench" / "results"
_PROFILES = governed.ROOT / "bench" / "profiles"
_USER = "ri-bench"
_PORT = 8765
_SECTIONS = (
    "launch",
    "operations",
    "programs",
    "authority",
    "outsiders",
    "names",
    "upkeep",
    "revocation",
)
_EPILOG = """\
examples:
  python -m bench                                       everything, side by side
  python -m bench --only operations --rounds 21
  python -m bench --wrapper 'bwrap --dev-bind / / --'   one more column; may be given again

Figures are judged by the median of the rounds' own ratios. A missed figure is no failure of the
command: exit status 0 everything was measured, 2 something could not be.
"""


@dataclass(frozen=True, slots=True)
class Place:
    """What every section works with."""

    runner: Runner
    programs: Path
    corpus: Corpus
    wrappers: tuple[Wrapper, ...]
    rounds: int

    @property
    def account(self) -> Account:
        return self.runner.account


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--wrapper", action="append", default=[], metavar="CMD", help="another column"
    )
    parser.add_argument(
        "--only", action="append", choices=_SECTIONS, default=[], help="this section; again: more"
    )
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="rounds (default 9)")
    return parser.parse_args()


def _progress(name: str) -> None:
    print(f"  {name} ...", file=sys.stderr, flush=True)


@contextmanager
def _server(programs: Path) -> Iterator[None]:
    """The other end of the network loads."""
    process = subprocess.Popen(
        [str(programs / "loads"), "serve", str(_PORT)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise BenchError(f"cannot listen on 127.0.0.1:{_PORT}")
        yield
    finally:
        process.kill()
        process.wait()


def _governed(daemon: Daemon, profile: str) -> Wrapper:
    return Wrapper("ri-exec", tuple(daemon.launcher("--profile", profile)))


def _landlock(place: Place) -> Wrapper:
    launcher = str(place.programs / "landlock_only")
    return Wrapper("landlock", (launcher, str(place.account.home), "--"))


def _launch(place: Place, daemon: Daemon) -> list[Figure]:
    view = Wrapper("ri-exec, view", _governed(daemon, "bench").prefix)
    plain = _governed(daemon, "bench-floor")
    wrappers = (BARE, _landlock(place), plain, view, *place.wrappers)
    measured = measure.rounds(place.runner, load.launches(), wrappers, 3 * place.rounds, _progress)
    figures = table.show_series("Launch", measured, wrappers, plain.name)
    added = measured[0].added_milliseconds(view.name, BARE.name)
    in_view = Figure("launch /bin/true in a view", added, 25.0, "ms added")
    table.show_figures("", [in_view])
    return [*figures, in_view]


def _side_by_side(place: Place, daemon: Daemon, section: str) -> list[Figure]:
    wrapper = _governed(daemon, "bench")
    wrappers = (BARE, _landlock(place), wrapper, *place.wrappers)
    loads = (
        load.operations(place.programs, place.corpus, _PORT)
        if section == "operations"
        else load.programs_of_people(place.programs, place.corpus)
    )
    measured = measure.rounds(place.runner, loads, wrappers, place.rounds, _progress)
    return table.show_series(section.capitalize(), measured, wrappers, wrapper.name)


def _authority(place: Place, daemon: Daemon) -> list[Figure]:
    """Sessions with labels and with budgets beside one without either."""
    plain = _governed(daemon, "bench")
    figures: list[Figure] = []
    for how, profile in (("labelled", "bench-labelled"), ("budgets", "bench-budgets")):
        column = Wrapper(how, _governed(daemon, profile).prefix)
        loads = load.counted(place.programs, _PORT, how)
        measured = measure.rounds(place.runner, loads, (plain, column), place.rounds, _progress)
        figures += table.show_series(f"Authority: {how}", measured, (plain, column), how)
    return figures + _starts(place, daemon) + _labelled_opens(place, daemon)


def _labelled_opens(place: Place, daemon: Daemon) -> list[Figure]:
    """Opens of files that earn a label."""
    _progress("opens of labelled files")
    found = opens.measure(
        place.account,
        place.corpus,
        place.programs,
        _governed(daemon, "bench-files").prefix,
        _governed(daemon, "bench").prefix,
        max(3, place.rounds // 2),
    )
    figures = [
        Figure("open of a labelled file, all but the first", found.ratio, 1.20, "x"),
        Figure("the first open of each, which waits", found.added_microseconds, 120, "us added"),
    ]
    table.show_figures("Authority: files of a label", figures)
    return figures


def _starts(place: Place, daemon: Daemon) -> list[Figure]:
    """Program starts under rules on arguments, beside those without."""
    rules = Wrapper("arguments", _governed(daemon, "bench-arguments").prefix)
    plain = _governed(daemon, "bench")
    columns = (BARE, plain, rules)
    loads = load.starts(place.programs)
    measured = measure.rounds(place.runner, loads, columns, place.rounds, _progress)
    figures = table.show_series("Authority: argument rules", measured, columns, rules.name)
    every = Wrapper("every", _governed(daemon, "bench-every").prefix)
    both = Wrapper("both", _governed(daemon, "bench-arguments-every").prefix)
    loads = load.starts_while_recording(place.programs, place.corpus)
    measured = measure.rounds(place.runner, loads, (every, both), place.rounds, _progress)
    return figures + table.show_series("", measured, (every, both), both.name)


def _outsiders(place: Place, starts: list[float]) -> list[Figure]:
    """Alternate between a host without the daemon and one where it runs with a session in it."""
    loads = load.outsiders(place.programs, place.corpus, _PORT)
    columns = (Wrapper("off"), Wrapper("on"))
    measured = [Series(item) for item in loads]
    _warn_of_others()
    for _ in range(max(3, place.rounds // 2)):
        _progress("outsiders, off and on")
        for series in measured:
            series.add("off", place.runner.once(series.load, columns[0]))
        with _daemon(place) as daemon:
            starts.append(daemon.started_in)
            with _idle_session(place, daemon):
                for series in measured:
                    series.add("on", place.runner.once(series.load, columns[1]))
    return table.show_series("Outside of any session", measured, columns, "on")


def _warn_of_others() -> None:
    """Probes of another instance make the `off` column dearer than it is."""
    others = [path.name for path in Path("/sys/fs/bpf").iterdir() if path.is_dir()]
    if others:
        print(f"  probes of others are loaded: {', '.join(others)}", file=sys.stderr)


@contextmanager
def _idle_session(place: Place, daemon: Daemon) -> Iterator[None]:
    argv = [*_governed(daemon, "bench-floor").prefix, "sh", "-c", "echo up; exec sleep 600"]
    process = place.account.start(argv, cwd=place.corpus.workspace)
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "up":
            raise BenchError("the idle session did not start")
        yield
    finally:
        process.terminate()
        process.communicate()


def _upkeep(place: Place, daemon: Daemon, starts: list[float]) -> list[Figure]:
    _progress("reading of records")
    launcher = _governed(daemon, "bench-every").prefix
    records = upkeep.reading(daemon, place.account, place.corpus, launcher, place.programs)
    backlog = upkeep.backlog(daemon, place.account, place.corpus, launcher, place.programs)
    _progress("restarts")
    restarts = [upkeep.restart_milliseconds(daemon) for _ in range(5)]
    figures = [
        Figure("worker's memory", upkeep.memory_mebibytes(daemon), 80, "MiB"),
        Figure("cold start to ready", statistics.median(starts), 2.0, "s"),
        Figure("restart after kill -9", statistics.median(restarts), 300, "ms"),
        Figure(f"core used at {records.rate:,.0f} records/s", records.load * 100, 10, "%"),
        Figure("records lost meanwhile", records.lost, 0, ""),
        Figure("records read from a full ring", backlog.read / 1e6, 1.0, "M/s", at_least=True),
        Figure("the same, judged and stored", backlog.stored / 1e6, 1.0, "M/s", at_least=True),
    ]
    table.show_figures("Upkeep", figures)
    return figures


def _names(place: Place) -> list[Figure]:
    _progress("hosts by name")
    connecting = names.measure(place.rounds)
    looking_up = resolver.measure()
    figures = [
        Figure("connect by what a name came to", connecting.by_name, 1.05, "x"),
        Figure(f"the same among {names.MANY:,} addresses", connecting.with_many, 1.05, "x"),
        Figure("a look-up, p50", looking_up.added, 1.0, "ms added"),
        Figure(f"answers lost or wrong at {looking_up.per_second:,.0f}/s", looking_up.wrong, 0, ""),
    ]
    table.show_figures("Hosts by name", figures)
    return figures


def _revocation(place: Place, daemon: Daemon) -> list[Figure]:
    _progress("revocations")
    launcher = _governed(daemon, "bench").prefix
    rounds = max(3, place.rounds // 2)
    found = revocation.measure(
        daemon, place.account, place.corpus, launcher, place.programs, rounds
    )
    figures = [
        Figure("revocation to deny-all, p99", revocation.p99(found.denied), 5, "ms"),
        Figure("the last connect of a session, p99", revocation.p99(found.last_connect), 5, "ms"),
        Figure("revocation to frozen and cut, p99", revocation.p99(found.cut), 50, "ms"),
        Figure("the reset at the peer, p99", revocation.p99(found.reset), 50, "ms"),
    ]
    size = (
        f"Revocation of {revocation.SESSIONS} sessions of {revocation.PROCESSES} processes,"
        f" {revocation.SESSIONS * revocation.CONNECTIONS} connections"
    )
    table.show_figures(size, figures)
    return figures


@contextmanager
def _daemon(place: Place) -> Iterator[Daemon]:
    folder = _CACHE / "daemon"
    folder.mkdir(parents=True, exist_ok=True)
    with governed.daemon(folder, _USER, instance="ri-bench", profiles=[_PROFILES]) as daemon:
        yield daemon


def _measure(place: Place, sections: list[str]) -> list[Figure]:
    figures: list[Figure] = []
    starts: list[float] = []
    if "outsiders" in sections:
        figures += _outsiders(place, starts)
    with _daemon(place) as daemon:
        starts.append(daemon.started_in)
        if "launch" in sections:
            figures += _launch(place, daemon)
        for section in ("operations", "programs"):
            if section in sections:
                figures += _side_by_side(place, daemon, section)
        if "authority" in sections:
            figures += _authority(place, daemon)
        if "names" in sections:
            figures += _names(place)
        if "upkeep" in sections:
            figures += _upkeep(place, daemon, starts)
        if "revocation" in sections:
            figures += _revocation(place, daemon)
    return figures


def _keep(figures: list[Figure]) -> None:
    _RESULTS.mkdir(exist_ok=True)
    rows = [asdict(figure) | {"met": figure.met} for figure in figures]
    (_RESULTS / "last.json").write_text(json.dumps(rows, indent=2) + "\n")


def main() -> int:
    arguments = _arguments()
    if os.geteuid() != 0:
        print("bench: must be started as root (sudo make bench)", file=sys.stderr)
        return 2
    try:
        wrappers = tuple(tools.wrapper(command) for command in arguments.wrapper)
        user = account.create(_USER)
        try:
            # Where the account can run them: the checkout may be closed to it.
            programs = user.home / "bin"
            tools.build(programs)
            files = corpus.create(user)
            runner = Runner(user, files.workspace)
            place = Place(runner, programs, files, wrappers, arguments.rounds)
            with _server(programs):
                _keep(_measure(place, arguments.only or list(_SECTIONS)))
        finally:
            account.remove(_USER)
    except (BenchError, DemoError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
