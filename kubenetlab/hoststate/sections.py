"""Order a HostState for readers: one section for each namespace.

A section has the sysctls of its namespace, then the objects of each component, then rules. A veth
pair is in the section of the namespace that wants it, followed by the objects of its peer end: the
bridge port, and the addresses and routes on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from msgspec import Struct

from kubenetlab.hoststate.daemons import Daemon
from kubenetlab.hoststate.files import File
from kubenetlab.hoststate.links.existing import LinkUp
from kubenetlab.hoststate.object import Key, Object, Origin
from kubenetlab.hoststate.programs import ProgramRun
from kubenetlab.hoststate.rules.rulesets import RuleObject
from kubenetlab.hoststate.rules.transactions import phase
from kubenetlab.hoststate.sandbox import Sandbox, Settings, Sysctl
from kubenetlab.hoststate.state import Contents, HostState

PeerObjects = Mapping[tuple[str, Key], Sequence[Object]]
"""Objects of the peer end of each veth pair by (namespace, link): the port, and all that depends
on it."""


class ObjectGroup(Struct, frozen=True):
    """Objects that one component wants for one subject, in an order of creation."""

    origin: Origin | None
    objects: tuple[Object, ...]


class ComponentRules(Struct, frozen=True):
    """Rules of one component for one rule backend (`backend`)."""

    origin: Origin | None
    backend: str
    objects: tuple[RuleObject, ...]


class Section(Struct, frozen=True):
    """One namespace, from its creation to its rules; a shared namespace has programs only."""

    title: str
    """Subject of the namespace: `Node worker`."""
    sandbox: Sandbox
    settings: tuple[Sysctl, ...] = ()
    """Sysctls to write before any link is created, because a new link inherits `default` ones."""
    existing_links: tuple[LinkUp, ...] = ()
    groups: tuple[ObjectGroup, ...] = ()
    rulesets: tuple[ComponentRules, ...] = ()
    files: tuple[ObjectGroup, ...] = ()
    """Files, then the daemons that read them."""
    programs: tuple[ProgramRun, ...] = ()


def sections(state: HostState) -> Iterator[Section]:
    """Yield the sections of a state, one for each sandbox, in the order of the namespaces."""
    peer_objects = _peer_objects(state)
    created_elsewhere = {id(obj) for objects in peer_objects.values() for obj in objects}
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
        own_objects = [
            obj
            for obj in contents.values()
            if obj.applier == "netlink" and id(obj) not in created_elsewhere
        ]
        yield Section(
            title,
            sandbox,
            settings=tuple(
                part
                for obj in own_objects
                if isinstance(obj, Sysctl | Settings)
                for part in obj.parts
                if isinstance(part, Sysctl)
            ),
            existing_links=tuple(obj for obj in own_objects if isinstance(obj, LinkUp)),
            groups=tuple(
                _groups(
                    state,
                    contents,
                    [
                        obj
                        for obj in own_objects
                        if not isinstance(obj, Sandbox | Sysctl | Settings | LinkUp)
                    ],
                    peer_objects,
                )
            ),
            rulesets=tuple(_rulesets(state, contents)),
            files=tuple(_files(state, contents)),
            programs=programs,
        )


def common_settings(all_sections: Sequence[Section]) -> tuple[Sysctl, ...]:
    """Return the sysctls that have the same value in all namespaces, as objects of the first."""
    own_netns = [section for section in all_sections if not section.sandbox.shares]
    setting_sets = [
        {(setting.path, setting.value, setting.is_optional) for setting in section.settings}
        for section in own_netns
    ]
    shared = set.intersection(*setting_sets) if setting_sets else set()
    return tuple(
        setting
        for section in own_netns[:1]
        for setting in section.settings
        if (setting.path, setting.value, setting.is_optional) in shared
    )


def _peer_objects(state: HostState) -> PeerObjects:
    peer_objects: dict[tuple[str, Key], list[Object]] = {
        obj.peer_end: [] for obj in state.objects() if obj.peer_end is not None
    }
    for obj in state.objects():
        for key in (obj.key, obj.depends_on):
            if key is not None and (obj.netns, key) in peer_objects:
                peer_objects[obj.netns, key].append(obj)
    return peer_objects


def _groups(
    state: HostState, contents: Contents, objects: Sequence[Object], peer_objects: PeerObjects
) -> Iterator[ObjectGroup]:
    """Group objects by component, in the order in which components appear in `contents`.

    The objects of a peer end follow their pair.
    """
    for origin, group in groupby(_by_component(state, contents, objects), state.origin):
        yield ObjectGroup(
            origin,
            tuple(
                created
                for obj in group
                for created in (
                    obj,
                    *(peer_objects[obj.peer_end] if obj.peer_end is not None else ()),
                )
            ),
        )


def _by_component(state: HostState, contents: Contents, objects: Sequence[Object]) -> list[Object]:
    """Sort objects by component; an object that others depend on comes before them."""
    links = {obj.key: obj for obj in objects}
    order = {
        origin: position
        for position, origin in enumerate(
            dict.fromkeys(state.origin(obj) for obj in contents.values())
        )
    }
    ordered: dict[Key, Object] = {}
    for obj in sorted(objects, key=lambda obj: order[state.origin(obj)]):
        if obj.depends_on in links:
            ordered.setdefault(obj.depends_on, links[obj.depends_on])
        ordered.setdefault(obj.key, obj)
    return list(ordered.values())


def _files(state: HostState, contents: Contents) -> Iterator[ObjectGroup]:
    objects = (obj for obj in contents.values() if isinstance(obj, File | Daemon))
    for origin, group in groupby(objects, state.origin):
        yield ObjectGroup(origin, tuple(group))


def _rulesets(state: HostState, contents: Contents) -> Iterator[ComponentRules]:
    rulesets: dict[tuple[Origin | None, str], list[RuleObject]] = {}
    for obj in contents.values():
        if isinstance(obj, RuleObject):
            rulesets.setdefault((state.origin(obj), obj.backend), []).append(obj)
    for (origin, backend), objects in sorted(rulesets.items(), key=lambda item: phase(item[0][1])):
        yield ComponentRules(origin, backend, tuple(objects))
