"""Documents → typed objects: of which kind a document is, and the decoding of one object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import structs

from kubenetlab.api import builtin
from kubenetlab.api.config import (
    API_VERSIONS,
    POD_SUBNETS,
    SERVICE_SUBNETS,
    VERSIONS,
    ClusterConfig,
)
from kubenetlab.api.decode import Decoded, Finding, decode, found
from kubenetlab.api.documents import MAX_DEPTH, is_deeper
from kubenetlab.api.kinds import writable
from kubenetlab.api.meta import Resource
from kubenetlab.errors import did_you_mean


def title_of(value: Mapping[str, Any]) -> str:
    """`Kind namespace/name` of a document, as far as it says."""
    meta = value.get("metadata")
    meta = meta if isinstance(meta, Mapping) else {}
    name = meta.get("name") or value.get("name") or ""
    kind = writable(value)
    namespace = meta.get("namespace") or (
        "default" if name and (kind is None or kind.is_namespaced) else ""
    )
    return (
        f"{value.get('kind', 'object')} {namespace}/{name}"
        if namespace and name
        else f"{value.get('kind', 'object')} {name}".strip()
    )


def unknown_kind_hints(api_version: str, kind: str) -> tuple[str, ...] | None:
    """What to say of a kind that neither Kubernetes nor the lab has; None when it may pass."""
    if kind == ClusterConfig.kind and api_version.split("/")[0] in {
        version.split("/")[0] for version in API_VERSIONS
    }:
        return (
            None
            if api_version in API_VERSIONS
            else (f"expected apiVersion {' or '.join(API_VERSIONS)}",)
        )
    if kind in builtin.KINDS.get(api_version, ()):
        return None
    known_group = api_version in builtin.KINDS or api_version.split("/")[0] in {
        version.split("/")[0] for version in builtin.KINDS if "/" in version
    }
    if versions := builtin.versions_of(kind):
        if known_group or "." not in api_version.split("/")[0]:
            return (f"expected apiVersion {' or '.join(versions)}",)
        return None
    if api_version in builtin.KINDS:
        guess = did_you_mean(kind, builtin.KINDS[api_version]) or did_you_mean(
            kind, builtin.all_kinds()
        )
        return (
            guess.removeprefix("; ")
            or f"{api_version} has: {', '.join(sorted(builtin.KINDS[api_version]))}",
        )
    if "/" not in api_version or known_group:
        return (f"Kubernetes 1.33 has: {', '.join(sorted(builtin.KINDS))}",)
    return None


def metadata_without_nulls(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a document without the fields of its metadata that are null: they are as if they were not there."""
    meta = value.get("metadata")
    if not isinstance(meta, Mapping) or None not in meta.values():
        return value
    return {**value, "metadata": {key: item for key, item in meta.items() if item is not None}}


def shape_findings(value: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what a document lacks of what every object has, whether the lab models its kind or not."""
    for field in ("apiVersion", "kind"):
        if not isinstance(value.get(field), str) or not value[field]:
            yield Finding((field,), f"expected a string, found {found(value.get(field))}")
    if is_deeper(value, MAX_DEPTH):
        yield Finding((), f"nested deeper than {MAX_DEPTH} levels")
    if writable(value) is not None:
        return
    meta = value.get("metadata")
    if not isinstance(meta, Mapping) or not isinstance(meta.get("name"), str):
        yield Finding(("metadata", "name"), "required, but missing")
        return
    if not isinstance(meta.get("namespace", ""), str):
        yield Finding(
            ("metadata", "namespace"), f"expected a string, found {found(meta['namespace'])}"
        )
    for field in ("labels", "annotations"):
        texts = meta.get(field)
        if texts is not None and not isinstance(texts, Mapping):
            yield Finding(("metadata", field), f"expected a mapping, found {found(texts)}")
        elif texts is not None:
            wrong = {key: value for key, value in texts.items() if not isinstance(value, str)}
            yield from (
                Finding(("metadata", field, key), f"expected a string, found {found(value)}")
                for key, value in wrong.items()
            )


def decode_object(value: Mapping[str, Any], type_: type[Resource]) -> Decoded[Resource]:
    """A document of a known kind as a typed object; the namespace `default` is filled in, a status is dropped."""
    fields = {
        key: item for key, item in value.items() if key not in ("apiVersion", "kind", "status")
    }
    if type_ is ClusterConfig:
        return _decode_config(value, fields)
    decoded = decode(fields, type_)
    return Decoded(_in_namespace(decoded.value), decoded.findings, _in_namespace(decoded.rest))


def _in_namespace(obj: Resource | None) -> Resource | None:
    if obj is None or not obj.is_namespaced or obj.namespace:
        return obj
    return structs.replace(obj, metadata=structs.replace(obj.metadata, namespace="default"))


def _decode_config(value: Mapping[str, Any], fields: dict[str, Any]) -> Decoded[Resource]:
    """The Cluster document, whose name stands at its top; kind's has one node when it names none."""
    name = fields.pop("name", None)
    name = "" if name is None else name
    if not isinstance(name, str):
        return Decoded(None, (Finding(("name",), f"expected a string, found {found(name)}"),))
    if fields.get("nodes") in (None, []):
        fields.pop("nodes", None)
        if value["apiVersion"] != API_VERSIONS[0]:
            fields["nodes"] = [{"role": "control-plane"}]
    networking = fields.get("networking")
    if isinstance(networking, Mapping) and (
        versions := VERSIONS.get(str(networking.get("ipFamily") or "ipv4"))
    ):
        ranges = {"podSubnet": POD_SUBNETS, "serviceSubnet": SERVICE_SUBNETS}
        defaults = {
            field: ",".join(known[version] for version in versions)
            for field, known in ranges.items()
        }
        fields["networking"] = {
            **networking,
            **{
                field: text
                for field, text in defaults.items()
                if networking.get(field) in (None, "")  # a wrong type is a finding of `decode`
            },
        }
    decoded = decode({"metadata": {"name": name}, **fields}, ClusterConfig)
    return Decoded(decoded.value, decoded.findings, decoded.rest)
