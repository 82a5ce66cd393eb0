# SPDX-License-Identifier: Apache-2.0
"""What all tests share: how hypothesis searches, and what a second try is told with."""

from __future__ import annotations

import pytest
from hypothesis import settings

# No database: an example kept from before a strategy was changed fails in a way that says nothing
# of the code. A failure prints what reproduces it.
settings.register_profile("ri", database=None, deadline=None, print_blob=True)
settings.load_profile("ri")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was wrong at the first try: a fault that shows now and then is one all the same."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.section(f"first try of {report.nodeid}")
        terminalreporter.line(report.longreprtext)
