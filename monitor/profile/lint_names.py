# SPDX-License-Identifier: Apache-2.0
"""What is doubtful about rules that name hosts: wildcards that mean more than one owner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from monitor.profile import network
from monitor.profile.finding import Finding
from monitor.profile.model import ConnectRule
from monitor.resolver.names import Depth, NameRule

_KEY = "network.connect"
# Suffixes under which anybody can have a name: the registries' own of two labels that are common,
# and services that give each customer one. A list of what is met, not of all there is.
_REGISTRIES = frozenset(
    f"{second}.{country}"
    for country in ("uk", "au", "nz", "jp", "kr", "br", "za", "in", "il", "tr", "th", "id", "mx")
    for second in ("co", "com", "org", "net", "ac", "gov", "edu", "ne", "or", "go", "gob", "web")
)
_SHARED = (
    "amazonaws.com",
    "cloudfront.net",
    "azurewebsites.net",
    "azureedge.net",
    "azurefd.net",
    "blob.core.windows.net",
    "cloudapp.net",
    "cloudapp.azure.com",
    "trafficmanager.net",
    "googleapis.com",
    "googleusercontent.com",
    "appspot.com",
    "run.app",
    "cloudfunctions.net",
    "web.app",
    "firebaseapp.com",
    "firebaseio.com",
    "akamaized.net",
    "akamaihd.net",
    "edgekey.net",
    "edgesuite.net",
    "fastly.net",
    "fastlylb.net",
    "workers.dev",
    "pages.dev",
    "r2.dev",
    "trycloudflare.com",
    "github.io",
    "githubusercontent.com",
    "gitlab.io",
    "herokuapp.com",
    "netlify.app",
    "vercel.app",
    "onrender.com",
    "fly.dev",
    "ngrok.io",
    "ngrok-free.app",
    "ngrok.app",
    "loca.lt",
    "b-cdn.net",
    "digitaloceanspaces.com",
    "ondigitalocean.app",
    "wordpress.com",
    "blogspot.com",
    "sharepoint.com",
    "duckdns.org",
    "nip.io",
    "sslip.io",
)


def lint(rules: Sequence[ConnectRule]) -> Iterator[Finding]:
    """Everything doubtful about the names that `connect` lists."""
    for rule in rules:
        if not network.names_host(rule.to):
            continue
        named = network.name_rule(rule.to)
        for message in _wildcard(rule, named):
            yield Finding("warning", rule.position, _KEY, message)


def _wildcard(rule: ConnectRule, named: NameRule) -> Iterator[str]:
    if named.depth not in {Depth.ONE, Depth.BELOW}:
        return
    if "." not in named.name or named.name in _REGISTRIES:
        yield f"{rule.to} names all who have a name under {named.name}: anybody can get one"
        return
    shared = next(
        (each for each in _SHARED if named.name == each or named.name.endswith(f".{each}")), None
    )
    if shared is not None and (named.depth is Depth.BELOW or named.name == shared):
        yield f"{rule.to} names every customer of {shared}, and an attacker may be one"
    elif named.depth is Depth.BELOW:
        yield (
            f"{rule.to} lets the program choose what it asks for: data leaves in the names"
            " (`*.` leaves it one label)"
        )
