# SPDX-License-Identifier: Apache-2.0
"""All known ways out that are tried, and where the others are.

Rows are those of the project's list of bypasses.
"""

from __future__ import annotations

from monitor.prove.calls import CALLS
from monitor.prove.files import FILES
from monitor.prove.network import NETWORK
from monitor.prove.trees import IN_TREES

CASES = (*FILES, *IN_TREES, *NETWORK, *CALLS)

# Rows that take more than one attempt in one session, and the tests that make them.
TESTED = {
    3: "tests/host/test_gate_execs.py",
    6: "tests/unit/test_resolver_names.py",
    8: "tests/host/test_local_sockets.py",
    12: "tests/host/test_exec_names.py",
    13: "tests/host/test_observation_files.py",
    14: "tests/host/test_gate_execs.py",
    17: "tests/bypass/test_bypass_view.py",
    19: "tests/host/test_passing.py",
    20: "tests/bypass/test_bypass_sessions.py",
    28: "tests/host/test_names_sessions.py",
    29: "tests/host/test_names_sessions.py",
    36: "tests/host/test_revoke.py",
    37: "tests/bypass/test_bypass_sessions.py",
    38: "tests/host/test_observation_counts.py",
    41: "tests/host/test_asks_held.py",
    42: "tests/host/test_enforce_environment.py",
    44: "tests/host/test_nested_sessions.py",
    45: "tests/host/test_tls_hellos.py",
    46: "tests/host/test_tls_hellos.py",
    47: "tests/host/test_unix_held.py",
    52: "tests/bypass/test_bypass_sessions.py",
    53: "tests/bypass/test_bypass_opens.py",
    62: "tests/host/test_gate_opens.py",
    63: "tests/host/test_exec_names.py",
    64: "tests/unit/test_profile_load.py",
    65: "tests/bypass/test_bypass_sessions.py",
    66: "tests/bypass/test_bypass_opens.py",
    67: "tests/bypass/test_bypass_sessions.py",
}
# Rows that are no way out of a session here, or that no rule can close.
STATED = {
    26: "what is sent to an allowed host is its affair (docs/threat-model.md); budgets bound it",
    27: "as above: an allowed host that relays is a way out",
    40: "the doctor counts the hooks that are attached",
    43: "no container runtime takes part",
}
