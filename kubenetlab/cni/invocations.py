"""One call of one plugin: the environment and the document on standard input.

Source: containernetworking/cni SPEC.md, section 2; libcni/api.go (buildOneConfig), pkg/invoke.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct

from kubenetlab.api.json_types import JsonMapping, JsonObject
from kubenetlab.cni import results
from kubenetlab.cni.capabilities import runtime_config
from kubenetlab.cni.conflist import CURRENT_VERSION, NetworkList, Plugin
from kubenetlab.cni.results import Result

PodCommand = Literal["ADD", "DEL", "CHECK"]
Command = Literal[PodCommand, "GC", "STATUS", "VERSION"]


class Attachment(Struct, frozen=True):
    """Container and interface: what ADD and DEL are about, and which of them GC keeps."""

    container_id: str
    ifname: str


class Arguments(Struct, frozen=True):
    """Arguments of a command, the same for all plugins of a list."""

    container_id: str = ""
    netns: str = ""
    """Path of the pod's network namespace; empty if it is gone."""
    ifname: str = ""
    pairs: tuple[tuple[str, str], ...] = ()
    """CNI_ARGS."""
    capabilities: JsonMapping = {}
    """Values by capability; each plugin gets those that it has asked for."""


class Invocation(Struct, frozen=True):
    """Call of a plugin's program."""

    program: str
    """Name of the program, which is searched in the directories of CNI_PATH."""
    environment: dict[str, str]
    """Variables of the specification."""
    stdin: bytes


_NO_ARGUMENTS: Final = Arguments()


def of_pod(
    command: PodCommand,
    network: NetworkList,
    plugin: Plugin,
    arguments: Arguments,
    path: Sequence[str],
    previous: Result | None,
) -> Invocation:
    """Return a call for a pod.

    path: directories of plugins.
    previous: for ADD the result of the plugin before it, else the final result of ADD.
    Raises ValueError if the version of the list cannot express the result.
    """
    config: JsonObject = dict(plugin.config)
    config.pop("prevResult", None)
    config |= {"name": network.name, "cniVersion": network.version}
    if previous is not None:
        config["prevResult"] = results.to_document(previous, network.version)
    if values := runtime_config(plugin.capabilities, arguments.capabilities):
        config["runtimeConfig"] = values
    return _invocation(command, plugin.type, config, arguments, path)


def of_network(
    command: Literal["GC", "STATUS"],
    network: NetworkList,
    plugin: Plugin,
    path: Sequence[str],
    valid: Sequence[Attachment] | None = None,
) -> Invocation:
    """Return a call that is about no pod.

    valid: attachments that GC must keep.
    """
    config = {**plugin.config, "name": network.name, "cniVersion": network.version}
    if valid is not None:
        kept = [{"containerID": each.container_id, "ifname": each.ifname} for each in valid]
        # The specification 1.1.0 named the second key; libcni sends both.
        config |= {"cni.dev/valid-attachments": kept, "cni.dev/attachments": kept}
    return _invocation(command, plugin.type, config, _NO_ARGUMENTS, path)


def of_version(program: str) -> Invocation:
    """Return the call that asks a plugin for the versions that it supports."""
    dummy = Arguments(netns="dummy", ifname="dummy")  # plugins of old libraries require them
    return _invocation("VERSION", program, {"cniVersion": CURRENT_VERSION}, dummy, ("dummy",))


def _invocation(
    command: Command,
    program: str,
    config: JsonMapping,
    arguments: Arguments,
    path: Sequence[str],
) -> Invocation:
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": arguments.container_id,
        "CNI_NETNS": arguments.netns,
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in arguments.pairs),
        "CNI_IFNAME": arguments.ifname,
        "CNI_PATH": ":".join(path),
    }
    return Invocation(program, environment, json.dumps(config).encode())
