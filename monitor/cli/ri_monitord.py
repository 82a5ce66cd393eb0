# SPDX-License-Identifier: Apache-2.0
"""ri-monitord: reads the configuration, makes the daemon's folders, and becomes the keeper."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from monitor import __version__
from monitor.daemon import config as configuration
from monitor.daemon.config import Config, ConfigError

ROOT = Path(__file__).resolve().parents[2]
KEEPER = ROOT / "monitor" / "daemon" / "keeper.py"
EPILOG = """\
environment:
  RI_SOCKET  socket of the API, where --socket does not name it

exit status:
  0  stopped by a signal
  1  the host lacks what is needed, or a file cannot be used: the message says which
  2  usage

examples:
  ri-monitord                            as /etc/ri/config.yaml says
  ri-monitord --config ./config.yaml     another configuration
  rictl doctor                           what the running daemon enforces on this host
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments; man pages are made from it too."""
    made = argparse.ArgumentParser(
        prog="ri-monitord",
        description="Enforce and record what AI agents do on this host. Runs as root; prints"
        " `ready` when enforcement is live.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--config", type=Path, metavar="FILE", help="configuration to read (/etc/ri/config.yaml)"
    )
    made.add_argument(
        "--socket", type=Path, metavar="PATH", help="socket of the API (/run/ri/ri.sock)"
    )
    made.add_argument("--state", type=Path, metavar="DIR", help="folder of databases (/var/lib/ri)")
    made.add_argument("--version", action="version", version=f"ri-monitord {__version__}")
    return made


def configure(arguments: argparse.Namespace) -> Config:
    """The configuration in force; ConfigError where it cannot be used."""
    if arguments.config is not None:
        config = configuration.load(arguments.config)
    elif configuration.DEFAULT_FILE.exists():
        config = configuration.load(configuration.DEFAULT_FILE)
    else:
        config = Config()
    socket = arguments.socket or os.environ.get("RI_SOCKET")
    if socket:
        config = replace(config, socket=Path(socket).absolute())
    if arguments.state is not None:
        config = replace(config, state=arguments.state.absolute())
    return config


def settings(config: Config) -> dict[str, object]:
    """What the keeper is told; see monitor/daemon/keeper.py."""
    python = [sys.executable, "-P", "-m"]
    return {
        "loader": [*python, "monitor.daemon.probes.loader", "--instance", config.instance],
        "worker": [*python, "monitor.daemon.worker", config.to_json()],
        "environment": {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            # aiohttp reads every trusted certificate when it is imported (80 ms); the daemon
            # never speaks TLS.
            "SSL_CERT_FILE": os.devnull,
            "SSL_CERT_DIR": os.devnull,
            # numpy decodes records here; its threads for linear algebra only cost memory.
            "OPENBLAS_NUM_THREADS": "1",
        },
        "listen": {"api": str(config.socket), "launch": str(config.launch_socket)},
        "lock": str(config.runtime / "lock"),
    }


def make_folders(config: Config) -> None:
    """The folders the daemon writes to: sockets for all to find, state for root only."""
    os.umask(0o022)  # a service manager may have set one that keeps everybody out
    config.runtime.mkdir(mode=0o755, parents=True, exist_ok=True)
    config.state.mkdir(mode=0o700, parents=True, exist_ok=True)


def main() -> int:
    """Become the keeper; returns only where that cannot be: the exit status."""
    arguments = parser().parse_args()
    if os.geteuid() != 0:
        print("ri-monitord: must be started as root", file=sys.stderr)
        return 1
    try:
        config = configure(arguments)
        make_folders(config)
    except (ConfigError, OSError) as error:
        print(f"ri-monitord: {error}", file=sys.stderr)
        return 1
    os.umask(0o077)
    command = [sys.executable, "-I", "-S", str(KEEPER), json.dumps(settings(config))]
    return os.execv(sys.executable, command)


if __name__ == "__main__":
    sys.exit(main())
