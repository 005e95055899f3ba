"""Warnings and notes about manifests: fields without effect, real commands, differences to kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from kubenetlab.api.config import ClusterConfig
from kubenetlab.cli.input.kind_config_notes import kind_notes
from kubenetlab.cli.terminal.printing import WARNING, note, paint

if TYPE_CHECKING:
    from kubenetlab.api.load import ManifestObject
    from kubenetlab.cli.input.manifests import Manifests


def warn(manifests: Manifests) -> None:
    """What does not stop the command but should be known: each thing once."""
    for problem in manifests.loaded.warnings:
        note(f"{paint('warning:', WARNING)} {problem}")
    if manifests.loaded.without_effect:
        kinds = (f"{kind} {_few(names)}" for kind, names in manifests.loaded.without_effect.items())
        note(f"{paint('note:', WARNING)} kept, without effect on the network: {'; '.join(kinds)}")
    for line in kind_notes(manifests):
        note(f"{paint('note:', WARNING)} {line}")
    for why, real in _real_commands(manifests.all_entries).items():
        note(
            f"{paint('note:', WARNING)} programs of this machine are run in {_few(real)}, as {why} asks"
        )
    if limited := _limited(manifests.all_entries):
        from kubenetlab.kernel.processes.cgroups import MEMORY
        from kubenetlab.kernel.processes.limiters import limiters

        note(
            f"{paint('note:', WARNING)} limits.memory of {_few(limited)} is enforced by {limiters()[MEMORY]}"
        )
    if hooked := _hooks_by_command(manifests.all_entries):
        note(
            f"{paint('note:', WARNING)} of hooks by command in built-in programs only `sleep` is waited for: {_few(hooked)}"
        )
    ignored = ignored_fields(manifests.all_entries)
    if ignored:
        note(f"{paint('note:', WARNING)} read, but without effect in the lab: {', '.join(ignored)}")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def ignored_fields(entries: Sequence[ManifestObject]) -> list[str]:
    """The fields that are accepted and not used, each once, by name."""
    found: dict[str, None] = {}
    all_do = _all_run_real(entries)
    for entry in entries:
        if entry.object is not None:
            used = ("volumes", "volume_mounts") if _reads_files(entry) else ()
            _collect_ignored(
                entry.object,
                found,
                may_be_real=bool(_who_asks_for_real(entry, all_do=all_do)),
                used=used,
            )
    return list(found)


def _reads_files(entry: ManifestObject) -> bool:
    """Return True when a built-in program of an object's pods reads files of volumes."""
    from kubenetlab.api.pods import PodSpec
    from kubenetlab.datapath.containers import files_read

    spec = getattr(_pod_template(entry), "spec", None)
    return isinstance(spec, PodSpec) and bool(files_read(spec))


def _real_commands(entries: Sequence[ManifestObject]) -> dict[str, list[str]]:
    """What asks for it → the objects whose containers' commands are run, with the programs' names."""
    found: dict[str, list[str]] = {}
    all_do = _all_run_real(entries)
    for entry in entries:
        containers = getattr(getattr(_pod_template(entry), "spec", None), "all_containers", ())
        commands = dict.fromkeys(
            container.command[0] for container in containers if container.command
        )
        if (
            entry.object is not None
            and commands
            and (why := _who_asks_for_real(entry, all_do=all_do))
        ):
            found.setdefault(why, []).append(f"{entry.object.title} ({', '.join(commands)})")
    return found


def _limited(entries: Sequence[ManifestObject]) -> list[str]:
    """Return the objects with containers that run real commands and have a memory limit."""
    from kubenetlab.programs.command import memory_limit

    all_do = _all_run_real(entries)
    found: dict[str, None] = {}
    for entry in entries:
        for container in getattr(getattr(_pod_template(entry), "spec", None), "all_containers", ()):
            if (
                entry.object is not None
                and container.command
                and memory_limit(container)
                and _who_asks_for_real(entry, all_do=all_do)
            ):
                found[entry.object.title] = None
    return list(found)


def _hooks_by_command(entries: Sequence[ManifestObject]) -> list[str]:
    """Return the objects with lifecycle hooks that are commands, and containers without a process that could run them."""
    all_do = _all_run_real(entries)
    found: list[str] = []
    for entry in entries:
        for container in getattr(getattr(_pod_template(entry), "spec", None), "all_containers", ()):
            handlers = (container.lifecycle.post_start, container.lifecycle.pre_stop)
            is_real = container.command and _who_asks_for_real(entry, all_do=all_do)
            if (
                entry.object is not None
                and not is_real
                and any(handler is not None and handler.exec is not None for handler in handlers)
            ):
                found.append(f"{entry.object.title} (container {container.name})")
    return found


def _pod_template(entry: ManifestObject) -> Any:
    """What has the metadata and the spec of the pods that an object stands for: its template, or itself."""
    return getattr(getattr(entry.object, "spec", None), "template", entry.object)


def _all_run_real(entries: Sequence[ManifestObject]) -> bool:
    """True where the Cluster document asks for the commands of all containers."""
    return any(
        isinstance(entry.object, ClusterConfig) and entry.object.real_commands for entry in entries
    )


def _who_asks_for_real(entry: ManifestObject, *, all_do: bool) -> str:
    """What has the commands of an object's containers run; nothing when they are not."""
    from kubenetlab.api.pods import REAL_COMMANDS_ANNOTATION

    template = _pod_template(entry)
    if (
        template is not None
        and template.metadata.annotations.get(REAL_COMMANDS_ANNOTATION) == "true"
    ):
        return f"the annotation {REAL_COMMANDS_ANNOTATION}"
    return "realCommands (--real-commands)" if all_do else ""


def _collect_ignored(
    record: Any, into: dict[str, None], *, may_be_real: bool, used: tuple[str, ...] = ()
) -> None:
    from kubenetlab.api.containers import ResourceRequirements
    from kubenetlab.api.meta import Record, Unmodelled, kubernetes_name

    if isinstance(record, ResourceRequirements):
        into |= dict.fromkeys(f"limits.{name}" for name in record.limits if name != "memory")
    unread = _unread(record, may_be_real=may_be_real)
    for name in unread:
        if getattr(record, name):
            into[kubernetes_name(name)] = None
    types = _annotations(record.__class__)
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if types.get(name) is Unmodelled:
            if value is not None and name not in ("managed_fields", "self_link", *used):
                into[kubernetes_name(name)] = None
        elif name in unread:
            continue
        elif isinstance(value, Record):
            _collect_ignored(value, into, may_be_real=may_be_real, used=used)
        elif isinstance(value, tuple):
            for item in value:
                if isinstance(item, Record):
                    _collect_ignored(item, into, may_be_real=may_be_real, used=used)


@cache
def _annotations(type_: type) -> Mapping[str, Any]:
    """Of a record's fields, those of its bases included."""
    return {
        name: annotation
        for cls in reversed(type_.__mro__)
        for name, annotation in getattr(cls, "__annotations__", {}).items()
    }


def _unread(record: Any, *, may_be_real: bool) -> tuple[str, ...]:
    """What the stand-in for a container does not look at."""
    from kubenetlab.api.containers import Container, ResourceRequirements
    from kubenetlab.programs import reads_arguments

    if isinstance(record, ResourceRequirements):
        return ("requests",)
    if not isinstance(record, Container) or (may_be_real and record.command):
        return ()
    never = ("working_dir", "security_context", "resources")
    return never if reads_arguments(record.image) else ("command", "args", *never)
