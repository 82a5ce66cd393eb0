# SPDX-License-Identifier: Apache-2.0
"""Places that are worth more than they look: what a rule should not reach without somebody knowing.

Paths are absolute or begin with a variable; a folder stands for all beneath it.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from monitor.profile.finding import Level


@dataclass(frozen=True, slots=True)
class Hazard:
    """`path` and what comes of reaching it."""

    level: Level
    path: str
    why: str


_ROOT = "whoever may talk to it is root on this host"
_OUTSIDE = "it starts programs outside the session"
_KEYS = "it signs and decrypts with the user's keys"
_SCREEN = "it sees and types what the user does"
_NAMES = "it looks names up: data leaves in the names"

# Unix sockets; `*` matches within one name. Those of shipped profiles are among them.
SOCKETS = (
    Hazard("error", "/run/docker.sock", _ROOT),
    Hazard("error", "/run/podman/podman.sock", _ROOT),
    Hazard("error", "/run/user/*/podman/podman.sock", _OUTSIDE),
    Hazard("error", "/run/user/*/docker.sock", _OUTSIDE),
    Hazard("error", "{home}/.docker/run/docker.sock", _OUTSIDE),
    Hazard("error", "/run/containerd/*", _ROOT),
    Hazard("error", "/run/crio/crio.sock", _ROOT),
    Hazard("error", "/run/buildkit/buildkitd.sock", _ROOT),
    Hazard("error", "/run/user/*/buildkit/buildkitd.sock", _OUTSIDE),
    Hazard("error", "/run/libvirt/*", _ROOT),
    Hazard("error", "/run/user/*/libvirt/*", _OUTSIDE),
    Hazard("error", "/var/lib/lxd/unix.socket", _ROOT),
    Hazard("error", "/var/snap/lxd/common/lxd/unix.socket", _ROOT),
    Hazard("error", "/var/lib/incus/unix.socket", _ROOT),
    Hazard("error", "/run/incus/unix.socket", _ROOT),
    Hazard("error", "/run/lxd.socket", _ROOT),
    Hazard("error", "/run/snapd.socket", _ROOT),
    Hazard("error", "/run/snapd-snap.socket", _ROOT),
    Hazard("error", "/run/systemd/private", _OUTSIDE),
    Hazard("error", "/run/user/*/systemd/private", _OUTSIDE),
    Hazard("error", "/run/user/*/bus", _OUTSIDE),
    Hazard("error", "/run/dbus/system_bus_socket", _OUTSIDE),
    Hazard("error", "/tmp/tmux-*/*", _OUTSIDE),
    Hazard("error", "/run/screen/*", _OUTSIDE),
    Hazard("error", "/run/ri/*", "it is the monitor's own"),
    Hazard("warning", "/tmp/ssh-*/*", _KEYS),
    Hazard("warning", "{home}/.ssh/*", _KEYS),
    Hazard("warning", "/run/user/*/openssh_agent", _KEYS),
    Hazard("warning", "/run/user/*/ssh-agent.socket", _KEYS),
    Hazard("warning", "/run/user/*/gcr/*", _KEYS),
    Hazard("warning", "/run/user/*/gnupg/*", _KEYS),
    Hazard("warning", "{home}/.gnupg/*", _KEYS),
    Hazard("warning", "/run/user/*/keyring/*", _KEYS),
    Hazard("warning", "/tmp/.X11-unix/*", _SCREEN),
    Hazard("warning", "@/tmp/.X11-unix/*", _SCREEN),
    Hazard("warning", "/run/user/*/wayland-*", _SCREEN),
    Hazard("warning", "/run/user/*/pipewire-*", "it hears and sees what the user does"),
    Hazard("warning", "/run/user/*/pulse/native", "it hears what the user says"),
    Hazard("warning", "/run/nscd/socket", _NAMES),
    Hazard("warning", "/run/systemd/resolve/*", _NAMES),
    Hazard("warning", "/run/avahi-daemon/socket", _NAMES),
)

_USERS = "it runs outside the session, with all of the user's rights"
_EDITOR = "editors act upon it outside the session"
_AGENT = "it tells agents what to run, outside the session too"

# Files that turn writing into running, or into rights, outside the session.
WRITTEN = (
    Hazard("error", "{home}/.ssh", "it decides who may log in as the user"),
    Hazard("error", "{home}/.bashrc", _USERS),
    Hazard("error", "{home}/.bash_profile", _USERS),
    Hazard("error", "{home}/.bash_login", _USERS),
    Hazard("error", "{home}/.bash_logout", _USERS),
    Hazard("error", "{home}/.profile", _USERS),
    Hazard("error", "{home}/.zshrc", _USERS),
    Hazard("error", "{home}/.zshenv", _USERS),
    Hazard("error", "{home}/.zprofile", _USERS),
    Hazard("error", "{home}/.config/fish", _USERS),
    Hazard("error", "{home}/.config/autostart", _USERS),
    Hazard("error", "{home}/.config/systemd/user", _USERS),
    Hazard("error", "{home}/.local/share/systemd/user", _USERS),
    Hazard("error", "{home}/.local/bin", _USERS),
    Hazard("error", "{home}/.gitconfig", "it names programs that git starts outside the session"),
    Hazard("error", "{home}/.config/git", "it names programs that git starts outside the session"),
    Hazard("error", "{home}/.vimrc", _USERS),
    Hazard("error", "{home}/.tmux.conf", _USERS),
    Hazard("warning", "{home}/.npmrc", "it decides where packages come from"),
    Hazard("warning", "{home}/.config/pip", "it decides where packages come from"),
    Hazard("warning", "{home}/.claude/settings.json", _AGENT),
    Hazard("warning", "{home}/.codex/config.toml", _AGENT),
    Hazard("warning", "{workspace}/.git/hooks", "git runs it outside the session"),
    Hazard("warning", "{workspace}/.git/config", "it names programs that git starts"),
    Hazard("warning", "{workspace}/.vscode/tasks.json", _EDITOR),
    Hazard("warning", "{workspace}/.idea", _EDITOR),
    Hazard("warning", "{workspace}/.envrc", "direnv runs it outside the session"),
    Hazard("warning", "{workspace}/.claude/settings.json", _AGENT),
    Hazard("error", "/var/spool/cron", _USERS),
    Hazard("error", "/run/docker.sock", _ROOT),
    Hazard("error", "/etc/ri", "it holds the profiles and rights themselves"),
)

# Folders of the host in which nothing should be writable.
HOST = (
    "/etc",
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/boot",
    "/opt",
    "/root",
    "/proc",
    "/sys",
    "/var/lib",
    "/var/spool",
)

_CREDENTIALS = "credentials of the user"

# Files that are worth stealing.
READ = (
    Hazard("warning", "/etc/shadow", "password hashes"),
    Hazard("warning", "/etc/gshadow", "password hashes"),
    Hazard("warning", "/etc/sudoers", "who may become root"),
    Hazard("warning", "/etc/ssl/private", "private keys of services"),
    Hazard("warning", "/etc/ssh/ssh_host_ed25519_key", "the host's identity"),
    Hazard("warning", "{home}/.ssh", "the user's keys"),
    Hazard("warning", "{home}/.gnupg", "the user's keys"),
    Hazard("warning", "{home}/.aws", _CREDENTIALS),
    Hazard("warning", "{home}/.azure", _CREDENTIALS),
    Hazard("warning", "{home}/.config/gcloud", _CREDENTIALS),
    Hazard("warning", "{home}/.config/gh", _CREDENTIALS),
    Hazard("warning", "{home}/.kube", _CREDENTIALS),
    Hazard("warning", "{home}/.docker/config.json", _CREDENTIALS),
    Hazard("warning", "{home}/.netrc", _CREDENTIALS),
    Hazard("warning", "{home}/.git-credentials", _CREDENTIALS),
    Hazard("warning", "{home}/.pypirc", _CREDENTIALS),
    Hazard("warning", "{home}/.cargo/credentials.toml", _CREDENTIALS),
    Hazard("warning", "{home}/.bash_history", "what the user typed"),
    Hazard("warning", "{home}/.mozilla", "the user's browser: its sessions"),
    Hazard("warning", "{home}/.config/google-chrome", "the user's browser: its sessions"),
    Hazard("warning", "{workspace}/.env", "secrets of the project"),
)

# Programs that stand a second time where distributions put them, as copies.
COPIES = (
    ("/usr/bin/git", "/usr/lib/git-core/git"),
    ("/usr/bin/git", "/usr/libexec/git-core/git"),
)

# Metadata servers: they hand the machine's own credentials to whoever asks.
METADATA = tuple(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, Google, Oracle, OpenStack
        "169.254.170.2",  # AWS ECS
        "169.254.170.23",  # AWS EKS
        "fd00:ec2::254",  # AWS over IPv6
        "fd00:ec2::23",  # AWS EKS over IPv6
        "fd20:ce::254",  # Google over IPv6
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure's own services
    )
)
