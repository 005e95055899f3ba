"""Warnings and notes about manifests: fields without effect, real commands, differences to kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.cli.input.kind_config_notes import kind_notes
from kubenetlab.cli.terminal.printing import note
from kubenetlab.cli.terminal.reports import print_warning
from kubenetlab.cli.terminal.theme import WARNING, paint

if TYPE_CHECKING:
    from kubenetlab.api.containers import Container
    from kubenetlab.api.manifests.load import ManifestObject
    from kubenetlab.api.meta import Record, Resource
    from kubenetlab.api.pods import PodTemplateSpec
    from kubenetlab.cli.input.manifests import Manifests

_NEVER_REPORTED = ("managed_fields", "self_link")
"""Fields that the API server sets; a manifest has them only because it was exported."""


def warn(manifests: Manifests) -> None:
    """Print warnings about manifests, and notes about parts that act differently in the lab."""
    for problem in manifests.loaded.warnings:
        print_warning(problem)
    for text in _notes(manifests):
        note(f"{paint('note:', WARNING)} {text}")


def _notes(manifests: Manifests) -> Iterator[str]:
    entries = manifests.all_entries
    if manifests.loaded.without_effect:
        kinds = (
            f"{kind} {_first_names(names)}"
            for kind, names in manifests.loaded.without_effect.items()
        )
        yield f"kept, without effect on the network: {'; '.join(kinds)}"
    yield from kind_notes(manifests)
    if manifests.kept_engine:
        yield _about_kept_engine(manifests)
    for setting, objects in _real_commands(entries).items():
        yield (
            f"{setting} is set: {_first_names(objects)} "
            f"{'runs' if len(objects) == 1 else 'run'} programs of this machine"
        )
    if limited := _memory_limited(entries):
        from kubenetlab.kernel.processes.cgroups import MEMORY
        from kubenetlab.kernel.processes.limiters import limiters

        yield f"limits.memory of {_first_names(limited)} is enforced by {limiters()[MEMORY]}"
    if hooked := _simulated_hooks(entries):
        yield (
            "lifecycle hooks of built-in programs run no commands, they only wait for `sleep`: "
            f"{_first_names(hooked)}"
        )
    if ignored := ignored_fields(entries):
        yield f"fields without effect in the lab: {', '.join(ignored)}"


def _about_kept_engine(manifests: Manifests) -> str:
    """Return the note about a policy engine that an earlier command selected."""
    from kubenetlab.datapath.modes import policy_engines

    networking = manifests.cluster_config.networking
    cni, default = networking.cni_mode[0], policy_engines(networking)[0]
    return (
        f"the policy engine {manifests.kept_engine}, selected before, is kept; the default with "
        f"cni {cni} is {default} (--policy {default})"
    )


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def ignored_fields(entries: Sequence[ManifestObject]) -> list[str]:
    """Return the names of the fields that the lab accepts and ignores, each once."""
    names: dict[str, None] = {}
    all_real = _all_commands_are_real(entries)
    for entry in entries:
        if entry.object is not None:
            used = ("volumes", "volume_mounts") if _reads_files(entry) else ()
            is_real = bool(_real_commands_setting(entry, all_real=all_real))
            names |= dict.fromkeys(_ignored(entry.object, is_real=is_real, used=used))
    return list(names)


def _reads_files(entry: ManifestObject) -> bool:
    """Return True if a built-in program of the object's pods reads files of volumes."""
    from kubenetlab.api.pods import PodSpec
    from kubenetlab.datapath.containers import files_read

    spec = getattr(_pod_template(entry), "spec", None)
    return isinstance(spec, PodSpec) and bool(files_read(spec))


def _real_commands(entries: Sequence[ManifestObject]) -> dict[str, list[str]]:
    """Return the objects with real commands and their programs, by the setting that enables it."""
    objects: dict[str, list[str]] = {}
    all_real = _all_commands_are_real(entries)
    for entry in entries:
        commands = dict.fromkeys(
            container.command[0] for container in _containers(entry) if container.command
        )
        if (
            entry.object is not None
            and commands
            and (setting := _real_commands_setting(entry, all_real=all_real))
        ):
            objects.setdefault(setting, []).append(f"{entry.object.title} ({', '.join(commands)})")
    return objects


def _memory_limited(entries: Sequence[ManifestObject]) -> list[str]:
    """Return the objects with containers that run real commands and have a memory limit."""
    from kubenetlab.programs.command import memory_limit

    all_real = _all_commands_are_real(entries)
    titles: dict[str, None] = {}
    for entry in entries:
        for container in _containers(entry):
            if (
                entry.object is not None
                and container.command
                and memory_limit(container)
                and _real_commands_setting(entry, all_real=all_real)
            ):
                titles[entry.object.title] = None
    return list(titles)


def _simulated_hooks(entries: Sequence[ManifestObject]) -> list[str]:
    """Return the containers with `exec` lifecycle hooks and no real process to run them."""
    all_real = _all_commands_are_real(entries)
    titles: list[str] = []
    for entry in entries:
        for container in _containers(entry):
            handlers = (container.lifecycle.post_start, container.lifecycle.pre_stop)
            is_real = container.command and _real_commands_setting(entry, all_real=all_real)
            if (
                entry.object is not None
                and not is_real
                and any(handler is not None and handler.exec is not None for handler in handlers)
            ):
                titles.append(f"{entry.object.title} (container {container.name})")
    return titles


def _pod_template(entry: ManifestObject) -> Resource | PodTemplateSpec | None:
    """Return the object that holds metadata and spec of the pods: the template, or a Pod itself."""
    template: Resource | PodTemplateSpec | None = getattr(
        getattr(entry.object, "spec", None), "template", entry.object
    )
    return template


def _containers(entry: ManifestObject) -> Sequence[Container]:
    """Return the containers of an object's pods, init containers included."""
    containers: Sequence[Container] = getattr(
        getattr(_pod_template(entry), "spec", None), "all_containers", ()
    )
    return containers


def _all_commands_are_real(entries: Sequence[ManifestObject]) -> bool:
    """Return True if the Cluster document sets `realCommands` for all containers."""
    return any(
        isinstance(entry.object, ClusterConfig) and entry.object.real_commands for entry in entries
    )


def _real_commands_setting(entry: ManifestObject, *, all_real: bool) -> str:
    """Return the setting that makes an object's commands real; empty if none does."""
    from kubenetlab.api.pods import REAL_COMMANDS_ANNOTATION

    template = _pod_template(entry)
    if (
        template is not None
        and template.metadata.annotations.get(REAL_COMMANDS_ANNOTATION) == "true"
    ):
        return f"the annotation {REAL_COMMANDS_ANNOTATION}"
    return "realCommands (--real-commands)" if all_real else ""


def _ignored(record: Record, *, is_real: bool, used: tuple[str, ...]) -> Iterator[str]:
    """Yield the ignored fields that a record and the records below it set.

    is_real: True if containers with a command run it.
    used: names of fields that a built-in program uses although the lab does not model them.
    """
    from kubenetlab.api.containers import ResourceRequirements
    from kubenetlab.api.meta import Record, Unmodelled, kubernetes_name

    if isinstance(record, ResourceRequirements):
        yield from (f"limits.{name}" for name in record.limits if name != "memory")
    unread = _unread(record, is_real=is_real)
    yield from (kubernetes_name(name) for name in unread if getattr(record, name))
    types = _annotations(record.__class__)
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if types.get(name) is Unmodelled:
            if value is not None and name not in (*_NEVER_REPORTED, *used):
                yield kubernetes_name(name)
        elif name not in unread:
            for item in value if isinstance(value, tuple) else (value,):
                if isinstance(item, Record):
                    yield from _ignored(item, is_real=is_real, used=used)


@cache
def _annotations(type_: type) -> JsonMapping:
    """Return the annotations of a record's fields, including those of its base classes."""
    return {
        name: annotation
        for cls in reversed(type_.__mro__)
        for name, annotation in getattr(cls, "__annotations__", {}).items()
    }


def _unread(record: Record, *, is_real: bool) -> tuple[str, ...]:
    """Return the fields of a container or its resources that its built-in program ignores."""
    from kubenetlab.api.containers import Container, ResourceRequirements
    from kubenetlab.programs import reads_arguments

    if isinstance(record, ResourceRequirements):
        return ("requests",)
    if not isinstance(record, Container) or (is_real and record.command):
        return ()
    never = ("working_dir", "security_context", "resources")
    return never if reads_arguments(record.image) else ("command", "args", *never)
