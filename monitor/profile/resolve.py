# SPDX-License-Identifier: Apache-2.0
"""What a profile comes to: `include` folded in, `extends` followed.

`include` composes: rules are added, which can only widen. `extends` narrows: the result is a
conjunction of profiles, and nobody has to compute whether one is within the other.

How `include` adds up, section by section:

- lists: those of the included profiles in their order, then the profile's own, each rule once;
- one value (a limit, `preset`, `records`, `required`): the profile's own where it says one, else
  the strictest of the included ones; `environment.set`: the later one, the own last;
- `labels`: all of them; two of one name that differ are an error;
- `run_as`, `may_lack` and `ask_fallback`: the profile's own only. What weakens a session is said
  where it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any

from monitor.profile import durations
from monitor.profile.catalog import UnknownProfile
from monitor.profile.errors import ProfileError, problem
from monitor.profile.model import LabelSection, Model, Position, Profile

Find = Callable[[str], Profile]

# The kernel holds so many links (probes/include/maps.h, RI_MAX_POLICIES).
MOST_LINKS = 8
SECTIONS = ("files", "network", "exec", "syscalls", "limits", "environment", "audit")
# Those that narrow only: what is extended holds by itself, so there is nothing to take over.
NARROWING = ("conditions", "signals")

# From the mildest to the strictest.
_REACTIONS = ("nothing", "ask", "deny", "freeze", "kill")


def _stricter(one: str, other: str) -> str:
    return max(one, other, key=_REACTIONS.index)


# The strictest of two values that are one value each.
_STRICTEST: dict[str, Callable[[Any, Any], Any]] = {
    "preset": lambda one, other: "strict" if "strict" in {one, other} else one,
    "records": lambda one, other: "every" if "every" in {one, other} else one,
    "required": lambda one, other: one or other,
    "ttl": lambda one, other: min(one, other, key=durations.seconds),
    "memory": lambda one, other: min(one, other, key=durations.octets),
    "egress_bytes": lambda one, other: min(one, other, key=durations.octets),
    "ask_timeout": lambda one, other: min(one, other, key=durations.seconds),
    "memory_available": lambda one, other: max(one, other, key=durations.octets),
    "on_expiry": _stricter,
    "on_budget": _stricter,
    "otherwise": _stricter,
    "session_revoked": _stricter,
    "assurance_level_change": _stricter,
}


def resolve(profile: Profile, find: Find) -> tuple[Profile, ...]:
    """The conjunction that `profile` stands for, outermost first; the last one is `profile`.

    `find` gives a profile by name and raises UnknownProfile. ProfileError, with the place of the
    reference, on an unknown name, a cycle, a chain too long, or an extension that widens.
    """
    chain = _extended(profile, find, (profile.name,))
    if len(chain) > MOST_LINKS:
        message = f"{len(chain)} profiles extend one another; the kernel holds {MOST_LINKS}"
        raise ProfileError([problem(profile.places.get("extends"), "extends", message)])
    return chain


def digest(profiles: Iterable[Profile]) -> str:
    """Names what resolved profiles permit: 32 hexadecimal digits. Places and words don't count."""
    plain = [
        profile.model_dump(mode="json", exclude={"description", "include", "extends"})
        for profile in profiles
    ]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _extended(profile: Profile, find: Find, trail: tuple[str, ...]) -> tuple[Profile, ...]:
    whole = _composed(profile, find, trail)
    if profile.extends is None:
        return (whole,)
    extended = _find(profile, "extends", profile.extends, find, trail)
    outer = _extended(extended, find, (*trail, extended.name))
    if profile.run_as == "root" and outer[-1].run_as != "root":
        message = f"root is more than {extended.name} allows, which this profile extends"
        raise ProfileError([problem(profile.places.get("run_as"), "run_as", message)])
    return (*outer, _completed(whole, outer[-1]))


def _completed(profile: Profile, outer: Profile) -> Profile:
    """`profile` with the sections of `outer` that it does not have itself."""
    taken = {name: getattr(outer, name) for name in SECTIONS if getattr(profile, name) is None}
    places = {
        key: place for key, place in outer.places.items() if key.partition(".")[0] in taken
    } | profile.places
    return profile.model_copy(update={**taken, "places": places})


def _composed(profile: Profile, find: Find, trail: tuple[str, ...]) -> Profile:
    """`profile` with what it includes folded in."""
    parts = []
    for index, name in enumerate(profile.include):
        key = f"include[{index}]"
        included = _find(profile, key, name, find, trail)
        if included.extends is not None:
            message = f"{name} extends {included.extends}: what narrows cannot be added to rules"
            raise ProfileError([problem(profile.places.get(key), key, message)])
        parts.append(_composed(included, find, (*trail, included.name)))
    if not parts:
        return profile
    places = {key: place for key, place in profile.places.items() if not _in_section(key)}
    update: dict[str, Any] = {"places": places}
    for name in (*SECTIONS, *NARROWING):
        update[name] = _added(name, [*parts, profile], places)
    update["labels"] = _labels([*parts, profile], places)
    return profile.model_copy(update=update)


def _labels(profiles: list[Profile], places: dict[str, Position]) -> dict[str, LabelSection]:
    """The labels of several profiles. Positions do not count where two are compared."""
    found: dict[str, tuple[Profile, LabelSection]] = {}
    for profile in profiles:
        for name, label in profile.labels.items():
            key = f"labels.{name}"
            first, known = found.setdefault(name, (profile, label))
            if known.model_dump() != label.model_dump():
                at = profiles[-1].places.get(key) or profile.places.get(key)
                message = f"{first.name} and {profile.name} both have this label, and differ"
                raise ProfileError([problem(at, key, message)])
            places |= {
                each: at
                for each, at in profile.places.items()
                if each == key or each.startswith(f"{key}.")
            }
    return {name: label for name, (_profile, label) in found.items()}


def _in_section(key: str) -> bool:
    return key.partition(".")[0] in (*SECTIONS, *NARROWING, "labels")


def _find(profile: Profile, key: str, name: str, find: Find, trail: tuple[str, ...]) -> Profile:
    position = profile.places.get(key)
    if name in trail:
        way = " -> ".join((*trail[trail.index(name) :], name))
        raise ProfileError([problem(position, key, f"a cycle: {way}")])
    try:
        return find(name)
    except UnknownProfile as error:
        raise ProfileError([problem(position, key, error.problems[0].message)]) from None


def _added(name: str, profiles: list[Profile], places: dict[str, Position]) -> Model | None:
    """The section `name` of several profiles, the last of which has the last word."""
    having = [profile for profile in profiles if getattr(profile, name) is not None]
    if not having:
        return None
    kind: type[Model] = type(getattr(having[0], name))
    own = profiles[-1] if having[-1] is profiles[-1] else None
    values: dict[str, Any] = {}
    for field in kind.model_fields:
        key = f"{name}.{field}"
        default = kind.model_fields[field].get_default(call_default_factory=True)
        if isinstance(default, tuple):
            values[field] = _listed(having, name, field, places)
        elif isinstance(default, dict):
            values[field] = _set(having, name, field, places)
        else:
            value, origin = _single(having, own, name, field)
            if origin is not None:
                values[field] = value
                if key in origin.places:
                    places[key] = origin.places[key]
    return kind(**values)


def _listed(
    having: list[Profile], name: str, field: str, places: dict[str, Position]
) -> tuple[Any, ...]:
    """Every item once, where it stands first."""
    items: list[Any] = []
    known = set()
    for profile in having:
        for index, item in enumerate(getattr(getattr(profile, name), field)):
            text = item if isinstance(item, str) else item.model_dump_json()
            if text not in known:
                known.add(text)
                place = profile.places.get(f"{name}.{field}[{index}]")
                if place is not None:
                    places[f"{name}.{field}[{len(items)}]"] = place
                items.append(item)
    return tuple(items)


def _set(
    having: list[Profile], name: str, field: str, places: dict[str, Position]
) -> dict[str, str]:
    values: dict[str, str] = {}
    for profile in having:
        values |= getattr(getattr(profile, name), field)
        prefix = f"{name}.{field}."
        places |= {key: at for key, at in profile.places.items() if key.startswith(prefix)}
    return values


def _single(
    having: list[Profile], own: Profile | None, name: str, field: str
) -> tuple[Any, Profile | None]:
    """The value of a field that has one, and the profile that says it (None: nobody does)."""
    saying = [profile for profile in having if field in getattr(profile, name).model_fields_set]
    saying = [profile for profile in saying if getattr(getattr(profile, name), field) is not None]
    if not saying:
        return None, None
    if own is not None and any(profile is own for profile in saying):
        return getattr(getattr(own, name), field), own
    strictest = _STRICTEST.get(field, min)
    chosen = saying[0]
    for profile in saying[1:]:
        value = getattr(getattr(chosen, name), field)
        other = getattr(getattr(profile, name), field)
        if strictest(value, other) != value:
            chosen = profile
    return getattr(getattr(chosen, name), field), chosen
