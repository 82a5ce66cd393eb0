# SPDX-License-Identifier: Apache-2.0
"""One fuzzer: `python -m fuzz.one TARGET [libFuzzer's arguments]`."""

from __future__ import annotations

import importlib
import sys
from typing import Any


def main() -> None:
    atheris: Any = importlib.import_module("atheris")  # has no types, and is here for this alone
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["monitor"]):
        target = importlib.import_module(f"fuzz.{name}").TARGET
    atheris.Setup(sys.argv, target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
