# SPDX-License-Identifier: Apache-2.0
"""Whether the table really holds packets on this host, found out by an attempt.

A rule that names a cgroup by the wrong level, or a kernel without `socket cgroupv2`, loads or fails
in ways that the rules themselves do not tell.
"""

from __future__ import annotations

import secrets
import subprocess
import sys

from monitor.kernel.cgroup import Cgroup, instance_root

SECONDS = 10
# In a cgroup that is no session, a datagram to this host is refused.
_ATTEMPT = """
import errno, socket, sys
with open(sys.argv[1], "w") as file:
    file.write("0")
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try:
    sock.sendto(b"", ("127.0.0.1", 9))
except OSError as error:
    sys.exit(3 if error.errno == errno.EPERM else 4)
"""


def holds(instance: str) -> bool:
    """Send from a cgroup of the instance's that has no rules; True where that was refused.

    The cgroup programs refuse it as well where they are attached: so before they are, or where
    they are known to work. Blocks for some 20 ms.
    """
    cgroup = Cgroup(instance_root(instance).joinpath(f"check-{secrets.token_hex(4)}"))
    cgroup.create()
    try:
        command = [sys.executable, "-I", "-S", "-c", _ATTEMPT, str(cgroup.path / "cgroup.procs")]
        done = subprocess.run(command, timeout=SECONDS, check=False, capture_output=True)
    finally:
        cgroup.kill()
        cgroup.wait("populated", False, SECONDS)
        cgroup.remove()
    return done.returncode == 3
