# SPDX-License-Identifier: Apache-2.0
"""Whether the table really holds packets on this host, found out by an attempt.

A rule that names a cgroup by the wrong level, or a kernel without `socket cgroupv2`, loads or fails
in ways that the rules themselves do not tell.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

from monitor.kernel.cgroup import Cgroup, instance_root

SECONDS = 10
REFUSED = 200  # no errno, and not how Python ends on its own
# In a cgroup that is no session, a datagram to this host is refused.
_ATTEMPT = """
import errno, socket, sys
REFUSED = 200
with open(sys.argv[1], "w") as file:
    file.write("0")
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", ("127.0.0.1", 9))
except OSError as error:
    sys.exit(REFUSED if error.errno == errno.EPERM else error.errno)
"""


def holds(instance: str) -> bool:
    """Send from a cgroup of the instance's that has no rules; True where that was refused.

    The cgroup programs refuse it as well where they are attached: so before they are, or where
    they are known to work. OSError where it cannot be tried, as in a service that may not make
    internet sockets. Blocks for some 20 ms.
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
    if done.returncode not in (0, REFUSED):
        why = done.stderr.decode().strip() or os.strerror(done.returncode)
        raise OSError(done.returncode, f"cannot try whether nftables holds packets: {why}")
    return done.returncode == REFUSED
