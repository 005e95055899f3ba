"""sections: a HostState in the order in which one would make it by hand, and tell about it.

A section for each namespace, in the order in which they are wanted: settings, then what each component adds, then rules. A pair of
links is made in the section of the namespace that wants it, and what belongs to its far end follows at once: the cable, then the
port that it is plugged into.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from msgspec import Struct

from kubenetlab.hoststate.link import LinkUp
from kubenetlab.hoststate.object import Key, Object, Origin
from kubenetlab.hoststate.programs import ProgramRun
from kubenetlab.hoststate.rules.rulesets import RuleObject
from kubenetlab.hoststate.sandbox import Sandbox, Settings, Sysctl
from kubenetlab.hoststate.state import Contents, HostState

FarEnds = Mapping[tuple[str, Key], Sequence[Object]]
"""(namespace, link) of each pair's far end → the objects there that come with it: the port, and what stands on it."""


class ObjectGroup(Struct, frozen=True):
    """Objects that one component wants for one subject, in an order that works."""

    origin: Origin | None
    objects: tuple[Object, ...]


class ComponentRules(Struct, frozen=True):
    """Rules of one component in one dialect."""

    origin: Origin | None
    dialect: str
    objects: tuple[RuleObject, ...]


class Section(Struct, frozen=True):
    """One namespace from its making to its rules; one that is another's has programs alone."""

    title: str
    """What it is: `Node worker`."""
    sandbox: Sandbox
    settings: tuple[Sysctl, ...] = ()
    """Before any link, since a new one takes over those that are called default."""
    ups: tuple[LinkUp, ...] = ()
    groups: tuple[ObjectGroup, ...] = ()
    rulesets: tuple[ComponentRules, ...] = ()
    programs: tuple[ProgramRun, ...] = ()


def sections(state: HostState) -> Iterator[Section]:
    """All of a state, section by section."""
    far = _far_ends(state)
    elsewhere = {id(obj) for objects in far.values() for obj in objects}
    for contents in state.namespaces.values():
        sandbox = next((obj for obj in contents.values() if isinstance(obj, Sandbox)), None)
        if sandbox is None:
            continue
        origin = state.origin(sandbox)
        title = origin.subject if origin is not None and origin.subject else sandbox.netns
        programs = tuple(obj for obj in contents.values() if isinstance(obj, ProgramRun))
        if sandbox.shares:
            yield Section(title, sandbox, programs=programs)
            continue
        made = [
            obj for obj in contents.values() if obj.hand == "netlink" and id(obj) not in elsewhere
        ]
        yield Section(
            title,
            sandbox,
            settings=tuple(
                part
                for obj in made
                if isinstance(obj, Sysctl | Settings)
                for part in obj.parts
                if isinstance(part, Sysctl)
            ),
            ups=tuple(obj for obj in made if isinstance(obj, LinkUp)),
            groups=tuple(
                _groups(
                    state,
                    contents,
                    [
                        obj
                        for obj in made
                        if not isinstance(obj, Sandbox | Sysctl | Settings | LinkUp)
                    ],
                    far,
                )
            ),
            rulesets=tuple(_rulesets(state, contents)),
            programs=programs,
        )


def common_settings(found: Sequence[Section]) -> tuple[Sysctl, ...]:
    """The settings that all namespaces have alike, as the first of them has them."""
    own = [section for section in found if not section.sandbox.shares]
    alike = [
        {(setting.path, setting.value, setting.is_optional) for setting in section.settings}
        for section in own
    ]
    shared = set.intersection(*alike) if alike else set()
    return tuple(
        setting
        for section in own[:1]
        for setting in section.settings
        if (setting.path, setting.value, setting.is_optional) in shared
    )


def _far_ends(state: HostState) -> FarEnds:
    found: dict[tuple[str, Key], list[Object]] = {
        obj.peer_end: [] for obj in state.objects() if obj.peer_end is not None
    }
    for obj in state.objects():
        for key in (obj.key, obj.depends_on):
            if key is not None and (obj.netns, key) in found:
                found[obj.netns, key].append(obj)
    return found


def _groups(
    state: HostState, contents: Contents, objects: Sequence[Object], far: FarEnds
) -> Iterator[ObjectGroup]:
    """Component by component, the one that made the namespace first; what comes with a far end behind its pair."""
    for origin, group in groupby(_by_component(state, contents, objects), state.origin):
        yield ObjectGroup(
            origin,
            tuple(
                one
                for obj in group
                for one in (obj, *(far[obj.peer_end] if obj.peer_end is not None else ()))
            ),
        )


def _by_component(state: HostState, contents: Contents, objects: Sequence[Object]) -> list[Object]:
    """A link comes before what stands on it, whosever it is."""
    links = {obj.key: obj for obj in objects}
    places = {
        origin: place
        for place, origin in enumerate(
            dict.fromkeys(state.origin(obj) for obj in contents.values())
        )
    }
    placed: dict[Key, Object] = {}
    for obj in sorted(objects, key=lambda obj: places[state.origin(obj)]):
        if obj.depends_on in links:
            placed.setdefault(obj.depends_on, links[obj.depends_on])
        placed.setdefault(obj.key, obj)
    return list(placed.values())


def _rulesets(state: HostState, contents: Contents) -> Iterator[ComponentRules]:
    found: dict[tuple[Origin | None, str], list[RuleObject]] = {}
    for obj in contents.values():
        if isinstance(obj, RuleObject):
            found.setdefault((state.origin(obj), obj.dialect), []).append(obj)
    for (origin, dialect), objects in found.items():
        yield ComponentRules(origin, dialect, tuple(objects))
