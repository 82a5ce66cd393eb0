# SPDX-License-Identifier: Apache-2.0
"""The one error of the benchmark: what could not be measured, and why."""


class BenchError(Exception):
    """A load did not run, or what it needs is not there."""
