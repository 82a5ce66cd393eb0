# SPDX-License-Identifier: Apache-2.0
"""The command behind `make fuzz`: each fuzzer for so many seconds; 1 where any found a fault.

What was learnt stays in .cache/fuzz and is where the next run begins. An input that shows a fault
is kept there too, and `python -m fuzz.one TARGET FILE` runs it again.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "fuzz"
TARGETS = ("profile", "api", "dns", "records", "launch")
# One input that takes longer than this is a fault: the daemon answers nobody meanwhile.
SLOWEST_SECONDS = 5
LAST = re.compile(r"#(\d+)\s+\w+\s+cov: (\d+)")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    arguments = parser.parse_args()
    unknown = set(arguments.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}: there are {', '.join(TARGETS)}")
    faults = [name for name in arguments.targets or TARGETS if not fuzz(name, arguments.seconds)]
    if faults:
        print(f"fuzz: faults in {', '.join(faults)}: the inputs are in {CACHE}")
    return 1 if faults else 0


def fuzz(name: str, seconds: int) -> bool:
    """Run one target; whether it held."""
    target = importlib.import_module(f"fuzz.{name}").TARGET
    folder = CACHE / name
    learnt, seeds, words = folder / "learnt", folder / "seeds", folder / "words"
    for each in (learnt, seeds):
        each.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (seeds / str(number)).write_bytes(seed)
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    command = [
        *(sys.executable, "-m", "fuzz.one", name, f"-max_total_time={seconds}"),
        *(f"-timeout={SLOWEST_SECONDS}", "-rss_limit_mb=2048", f"-max_len={target.longest}"),
        *(f"-dict={words}", f"-artifact_prefix={folder}/", "-print_final_stats=1"),
        *(str(learnt), str(seeds)),
    ]
    log = folder / "log"
    with log.open("w") as output:
        done = subprocess.run(
            command,
            check=False,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(),
        )
    text = log.read_text(errors="replace")
    runs, covered = LAST.findall(text)[-1] if LAST.search(text) else ("0", "0")
    print(f"fuzz: {name:<8} {runs:>9} inputs, {covered:>5} branches reached: ", end="")
    if done.returncode == 0:
        print("no fault")
        return True
    print(f"FAULT ({log})")
    print("\n".join(text.splitlines()[-25:]))
    return False


def _environment() -> dict[str, str]:
    """This process's, with the fuzzing engine that `make fuzz` put beside the corpus."""
    path = os.pathsep.join((str(CACHE / "engine"), os.environ.get("PYTHONPATH", "")))
    return dict(os.environ) | {"PYTHONPATH": path.rstrip(os.pathsep)}


def _escaped(word: bytes) -> str:
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in word
    )


if __name__ == "__main__":
    sys.exit(main())
