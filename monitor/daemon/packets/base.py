# SPDX-License-Identifier: Apache-2.0
"""What the table has whether or not there are sessions, in the language of nft(8).

libnftables' JSON has no way to give the level of `socket cgroupv2`, and a rule with the wrong one
never matches: so this part is text.

The table is one for each instance. Two chains hang on the kernel's hooks and pass what belongs to
the instance's cgroup on. There, each level of nested cgroups has a verdict map from the cgroup to
the session's chain, which returns where it lets a packet pass: so a packet passes the chains of all
sessions above as well. A cgroup beneath the instance's that is no session, or no longer one, is
refused everything: what an orphaned socket still holds does not leave.
"""

from __future__ import annotations

# More links than a session can have (RI_MAX_POLICIES).
LEVELS = 8
# Seconds without a datagram after which a peer of a bound UDP socket is forgotten.
PEER_SECONDS = 180
# How many addresses a session can be given at run time, and how many peers it can have.
MOST_ELEMENTS = 65536

FLAGS = "tcp flags & (fin | syn | rst | ack)"


def table_name(instance: str) -> str:
    return f"ri_{instance.replace('-', '_')}"


def script(table: str, root: str, level: int) -> str:
    """Make the table, or bring the one that is there up to date. Sessions' own parts stay.

    `root` and `level` are those of the instance's cgroup, which must exist.
    """
    levels = [level + number for number in range(1, LEVELS + 1)]
    maps = "\n".join(
        f"  map {name}_{at} {{ type cgroupsv2 : verdict; }}"
        for name in ("send", "take")
        for at in levels
    )
    sends = "\n".join(f"    socket cgroupv2 level {at} vmap @send_{at}" for at in levels)
    takes = "\n".join(f"    socket cgroupv2 level {at} vmap @take_{at}" for at in levels)
    chains = ("output", "input", "sending", "taking", "sessions_send", "sessions_take")
    made = "\n".join(f"add chain inet {table} {name}" for name in chains[2:])
    flushed = "\n".join(f"flush chain inet {table} {name}" for name in (*chains, *SHARED))
    shared = "\n".join(f"add chain inet {table} {name}" for name in SHARED)
    return f"""
table inet {table} {{
{maps}
  set known {{ type cgroupsv2; }}
  chain output {{ type filter hook output priority 0; policy accept; }}
  chain input {{ type filter hook input priority 0; policy accept; }}
}}
{made}
{shared}
{flushed}
table inet {table} {{
  chain resets {{
    ip length 40 tcp doff 5 accept comment "a reset without data: the peer of a cut socket"
    ip length 52 tcp doff 8 accept
    ip6 nexthdr 6 ip6 length 20 tcp doff 5 accept
    ip6 nexthdr 6 ip6 length 32 tcp doff 8 accept
  }}
  chain refuse {{
    tcp flags & rst == rst jump resets
    meta l4proto tcp reject with tcp reset
    reject with icmpx type admin-prohibited
  }}
  chain turn_away {{
    meta l4proto tcp reject with tcp reset
    reject with icmpx type port-unreachable
  }}
  chain sessions_send {{
{sends}
  }}
  chain sessions_take {{
{takes}
  }}
  chain sending {{
    socket cgroupv2 level {levels[0]} @known goto sessions_send
    goto refuse
  }}
  chain taking {{
    socket cgroupv2 level {levels[0]} @known goto sessions_take
    goto turn_away
  }}
  chain output {{
    socket cgroupv2 level {level} "{root}" jump sending
  }}
  chain input {{
    meta l4proto tcp {FLAGS} != syn accept comment "established: its SYN was judged"
    meta l4proto {{ icmp, ipv6-icmp }} accept
    socket cgroupv2 level {level} "{root}" jump taking
  }}
}}
"""


SHARED = ("resets", "refuse", "turn_away")
