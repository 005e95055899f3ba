"""File that keeps the result of ADD until DEL, in libcni's format.

Source: containernetworking/cni libcni/api.go (cachedInfo, getCacheFilePath).
"""

from __future__ import annotations

import base64
import json
from typing import Final

from msgspec import Struct

from kubenetlab.api.json_types import JsonMapping, JsonValue
from kubenetlab.cni import conflist, results
from kubenetlab.cni.conflist import NetworkList
from kubenetlab.cni.failures import PluginError
from kubenetlab.cni.invocations import Arguments
from kubenetlab.cni.results import Result

DIRECTORY: Final = "/var/lib/cni/results"
"""Directory of the files on a node."""
_KIND: Final = "cniCacheV1"


class CachedAttachment(Struct, frozen=True):
    """Content of a file."""

    network: NetworkList
    """Configuration with which ADD was called."""
    arguments: Arguments
    result: Result | None
    """Result of ADD; None if it cannot be read."""


def file_name(network: str, arguments: Arguments) -> str:
    """Return the name of the file of an attachment."""
    return f"{network}-{arguments.container_id}-{arguments.ifname}"


def encode(network: NetworkList, arguments: Arguments, result: Result) -> bytes:
    """Return the content of the file of an attachment."""
    document: dict[str, JsonValue] = {
        "kind": _KIND,
        "containerId": arguments.container_id,
        "config": base64.b64encode(json.dumps(network.document).encode()).decode(),
        "ifName": arguments.ifname,
        "networkName": network.name,
        "netns": arguments.netns,
        "cniArgs": [list(pair) for pair in arguments.pairs],
        "capabilityArgs": dict(arguments.capabilities),
        "result": results.to_document(result, result.cni_version),
    }
    optional = ("netns", "cniArgs", "capabilityArgs")
    kept = {key: value for key, value in document.items() if value or key not in optional}
    return json.dumps(kept).encode()


def decode(content: bytes) -> CachedAttachment | None:
    """Return the content of a file; None if it is of another kind or damaged."""
    try:
        document = json.loads(content)
        if not isinstance(document, dict) or document.get("kind") != _KIND:
            return None
        network, _ = conflist.load(json.loads(base64.b64decode(document["config"])))
        arguments = Arguments(
            document["containerId"],
            document.get("netns", ""),
            document["ifName"],
            tuple((key, value) for key, value in document.get("cniArgs") or ()),
            document.get("capabilityArgs") or {},
        )
    except (ValueError, KeyError, TypeError):
        return None
    if network is None:
        return None
    return CachedAttachment(network, arguments, _result(document.get("result"), network.version))


def _result(document: JsonMapping | None, version: str) -> Result | None:
    try:
        return results.decode(json.dumps(document).encode(), version) if document else None
    except PluginError:
        return None
