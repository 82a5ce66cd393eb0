# SPDX-License-Identifier: Apache-2.0
"""All known ways out that are tried; rows are those of the project's list of bypasses."""

from __future__ import annotations

from monitor.prove.calls import CALLS
from monitor.prove.files import FILES
from monitor.prove.network import NETWORK
from monitor.prove.trees import IN_TREES

CASES = (*FILES, *IN_TREES, *NETWORK, *CALLS)
