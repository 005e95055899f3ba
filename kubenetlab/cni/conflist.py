"""Network configuration list: the JSON document that names a network's plugins.

Source: containernetworking/cni SPEC.md, section 1; libcni/conf.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from kubenetlab.api.json_types import JsonMapping, JsonValue
from kubenetlab.api.text.decode import Finding, found
from kubenetlab.api.text.documents import Path
from kubenetlab.errors import did_you_mean

CURRENT_VERSION: Final = "1.1.0"
"""Version of the specification that this runtime implements."""
CONFIG_VERSIONS: Final = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", CURRENT_VERSION)
"""Versions in which a configuration list can be written."""

CAPABILITIES: Final = (
    "portMappings",
    "bandwidth",
    "ips",
    "mac",
    "dns",
    "ipRanges",
    "io.kubernetes.cri.pod-annotations",
)
"""Capabilities for which plugins get values of pods (capabilities.py)."""

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_LIST_FIELDS: Final = (
    "cniVersion",
    "cniVersions",
    "name",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
    "plugins",
)


class Plugin(Struct, frozen=True):
    """One entry of `plugins`."""

    type: str
    """Name of the plugin's program."""
    config: JsonMapping
    """The whole entry."""
    capabilities: tuple[str, ...] = ()
    """Capabilities that are switched on: keys of `runtimeConfig` that the plugin gets."""

    @property
    def description(self) -> str:
        """Description in error messages, as libcni words it."""
        name = self.config.get("name")
        return f'type="{self.type}"' + (f' name="{name}"' if name else "")


class NetworkList(Struct, frozen=True):
    """Network configuration list."""

    name: str
    version: str
    """Version of the specification in which plugins are called."""
    plugins: tuple[Plugin, ...]
    document: JsonMapping
    """The list as it was written."""
    disable_check: bool = False
    disable_gc: bool = False

    @property
    def program_names(self) -> tuple[str, ...]:
        """Names of all programs: the plugins, and the IPAM plugins that these call."""
        names = dict.fromkeys(plugin.type for plugin in self.plugins)
        for plugin in self.plugins:
            ipam = plugin.config.get("ipam")
            if isinstance(ipam, dict) and isinstance(ipam.get("type"), str):
                names[ipam["type"]] = None
        return tuple(name for name in names if name)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Capabilities of all plugins, in alphabetical order."""
        return tuple(sorted({name for plugin in self.plugins for name in plugin.capabilities}))


def parse_version(version: str) -> tuple[int, int, int] | None:
    """Return a version as numbers, which can be compared; None if it is not valid."""
    parts = version.split(".")
    if len(parts) > 3 or not all(part.isascii() and part.isdigit() for part in parts):
        return None
    major, minor, patch = ([int(part) for part in parts] + [0, 0])[:3]
    return major, minor, patch


def is_at_least(version: str, minimum: str) -> bool:
    """Return True if a valid version is `minimum` or a later one."""
    own, other = parse_version(version), parse_version(minimum)
    return own is not None and other is not None and own >= other


def load(document: JsonValue) -> tuple[NetworkList | None, tuple[Finding, ...]]:
    """Return (list, warnings) or (None, all mistakes).

    A configuration of a single plugin, which has `type` in place of `plugins`, counts as a list of
    that plugin. `loadOnlyInlinedPlugins` has no effect: plugins are always inline, because there is
    no folder beside the document.
    """
    if not isinstance(document, dict):
        return None, (Finding((), f"expected a CNI configuration list, found {found(document)}"),)
    if "plugins" not in document and isinstance(document.get("type"), str):
        document = {
            **{key: document[key] for key in ("cniVersion", "name") if key in document},
            "plugins": [document],
        }
    findings = (
        *_name_findings(document),
        *_version_findings(document),
        *_flag_findings(document),
        *_plugin_findings(document),
        *_unknown_fields(document),
    )
    if any(not finding.is_warning for finding in findings):
        return None, findings
    plugins = tuple(_plugin(entry) for entry in document["plugins"])
    return NetworkList(
        document["name"],
        _chosen_version(document),
        plugins,
        document,
        disable_check=_is_true(document.get("disableCheck")),
        disable_gc=_is_true(document.get("disableGC")),
    ), findings


def _plugin(entry: JsonMapping) -> Plugin:
    capabilities = entry.get("capabilities") or {}
    return Plugin(
        entry["type"], entry, tuple(name for name, is_on in capabilities.items() if is_on)
    )


def _chosen_version(document: JsonMapping) -> str:
    """Return the highest of the stated versions that this runtime implements."""
    stated = (*document.get("cniVersions", ()), document.get("cniVersion"))
    return next(version for version in reversed(CONFIG_VERSIONS) if version in stated)


def _name_findings(document: JsonMapping) -> Iterator[Finding]:
    name = document.get("name")
    if name is None:
        yield Finding((), "the list has no `name`: expected the name of the network")
    elif not isinstance(name, str):
        yield Finding(("name",), f"expected text, found {found(name)}")
    elif not _NAME.fullmatch(name):
        yield Finding(
            ("name",),
            f"expected letters, digits, `_`, `.` and `-`, the first a letter or digit;"
            f" found {found(name)}",
        )


def _version_findings(document: JsonMapping) -> Iterator[Finding]:
    one, many = document.get("cniVersion"), document.get("cniVersions", [])
    range_ = f"expected a version from {CONFIG_VERSIONS[0]} to {CURRENT_VERSION}"
    if not isinstance(many, list):
        yield Finding(("cniVersions",), f"expected a list of versions, found {found(many)}")
        return
    stated: list[tuple[Path, JsonValue]] = []
    if one not in (None, ""):
        stated.append((("cniVersion",), one))
    stated += ((("cniVersions", index), version) for index, version in enumerate(many))
    if not stated:
        yield Finding((), f"the list has no `cniVersion`: {range_}")
        return
    invalid = [
        Finding(path, f"{range_}, found {found(version)}")
        for path, version in stated
        if not isinstance(version, str) or parse_version(version) is None
    ]
    yield from invalid
    if not invalid and not any(version in CONFIG_VERSIONS for _, version in stated):
        shown = ", ".join(version for _, version in stated)
        yield Finding(stated[0][0], f"{range_}, found {shown}")


def _flag_findings(document: JsonMapping) -> Iterator[Finding]:
    for field in ("disableCheck", "disableGC", "loadOnlyInlinedPlugins"):
        value = document.get(field, False)
        is_text = isinstance(value, str) and value.lower() in ("true", "false")
        if not isinstance(value, bool) and not is_text:
            yield Finding((field,), f"expected true or false, found {found(value)}")


def _plugin_findings(document: JsonMapping) -> Iterator[Finding]:
    plugins = document.get("plugins")
    if plugins is None:
        yield Finding((), "the list has no `plugins`: expected at least one plugin")
        return
    if not isinstance(plugins, list) or not plugins:
        shown = "an empty list" if plugins == [] else found(plugins)
        yield Finding(("plugins",), f"expected a list of plugins, found {shown}")
        return
    for index, entry in enumerate(plugins):
        path = ("plugins", index)
        if not isinstance(entry, dict):
            yield Finding(path, f"expected a plugin's configuration, found {found(entry)}")
            continue
        yield from _program_findings((*path, "type"), entry.get("type"))
        ipam = entry.get("ipam", {})
        if not isinstance(ipam, dict):
            yield Finding((*path, "ipam"), f"expected a mapping, found {found(ipam)}")
        elif "type" in ipam:
            yield from _program_findings((*path, "ipam", "type"), ipam["type"])
        yield from _capability_findings((*path, "capabilities"), entry.get("capabilities"))


def _program_findings(path: Sequence[str | int], name: JsonValue) -> Iterator[Finding]:
    if not isinstance(name, str) or (not name and path[-2] != "ipam"):
        yield Finding(tuple(path), f"expected the name of a plugin, found {found(name)}")
    elif "/" in name:
        yield Finding(
            tuple(path), f"expected the name of a plugin without `/`, found {found(name)}"
        )


def _capability_findings(path: Sequence[str | int], value: JsonValue) -> Iterator[Finding]:
    if value is None:
        return
    if not isinstance(value, dict):
        yield Finding(tuple(path), f"expected a mapping, found {found(value)}")
        return
    for name, is_on in value.items():
        if not isinstance(is_on, bool):
            yield Finding((*path, name), f"expected true or false, found {found(is_on)}")
        elif name not in CAPABILITIES:
            message = "the lab has no value for this capability" + did_you_mean(name, CAPABILITIES)
            yield Finding((*path, name), message, is_warning=True)


def _unknown_fields(document: JsonMapping) -> Iterator[Finding]:
    for field in document:
        if field not in _LIST_FIELDS:
            message = (
                f"unknown field of a CNI configuration list{did_you_mean(field, _LIST_FIELDS)}"
            )
            yield Finding((field,), message, is_warning=True)


def _is_true(value: JsonValue) -> bool:
    return value is True or (isinstance(value, str) and value.lower() == "true")
