"""A JSON Schema of what manifests may hold (draft 2020-12), for editors: they complete, explain and underline while one types.

It says what the loader says of the fields of one document by their types. What the loader only warns of, fields that
nobody knows, it forbids. Null stands for nothing, as in Kubernetes: it is allowed wherever a field may be left out. Rules that
take more than one field to see are left to `plan`; and to JSON Schema, unlike the loader, 80.0 is a whole number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct, inspect

from kubenetlab.api import builtin
from kubenetlab.api.config import API_VERSIONS, ClusterConfig, Networking
from kubenetlab.api.fields import Field, fields_of, fields_of_struct, structs_in, versions_of
from kubenetlab.api.kinds import WRITABLE, group_of
from kubenetlab.api.meta import ObjectMeta, Resource

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_PLACE: Final = "#/$defs/"

Schema = dict[str, Any]
Modes = Mapping[str, Mapping[str, type[Struct]]]
"""Field of `networking` → name of a mode → its options."""

_NAMED, _LIST, _OTHER = "NamedObjectMeta", "List", "Other"


def schema_of_documents(modes: Modes) -> Schema:
    """Of any document that the lab reads: the kinds it models, lists, and other kinds, which it keeps as they are."""
    is_list = {
        "required": ["kind"],
        "anyOf": [
            {"properties": {"kind": {"const": "List"}}},
            {
                "properties": {"kind": {"pattern": "List$"}, "items": {"type": "array"}},
                "required": ["items"],
            },
        ],
    }
    cases = [(_is(kind), kind.kind) for kind in WRITABLE] + [(is_list, _LIST)]
    head = {
        "apiVersion": {
            "type": "string",
            "minLength": 1,
            "description": "The API group, and which version of it.",
        },
        "kind": {"type": "string", "minLength": 1, "description": "What this document describes."},
    }
    root: Schema = {
        "$schema": DIALECT,
        "title": "A document that kubenetlab reads",
        "type": "object",
        "properties": head,
        "required": list(head),
        "allOf": [
            *({"if": condition, "then": _reference(name)} for condition, name in cases),
            {
                "if": {"not": {"anyOf": [condition for condition, _ in cases]}},
                "then": _reference(_OTHER),
            },
        ],
    }
    parts = _parts(WRITABLE, modes) | {_LIST: _list(), _OTHER: _other()}
    return root | {"$defs": _used(parts, root)}


def schema_of_kind(kind: type[Resource], modes: Modes) -> Schema:
    """Of one kind's documents alone."""
    parts = _parts((kind,), modes)
    root = {"$schema": DIALECT, **parts.pop(kind.kind)}
    return root | {"$defs": _used(parts, root)}


def _parts(kinds: Iterable[type[Resource]], modes: Modes) -> dict[str, Schema]:
    """Name → schema of every type in the kinds, and of the kinds' documents by the kinds' names."""
    kinds = tuple(kinds)
    types = {type_.__name__: type_ for kind in kinds for type_ in _types_in(kind)}
    _, parts = msgspec.json.schema_components(kinds, ref_template=_PLACE + "{name}")
    for name, type_ in types.items():
        parts[name] = _completed(parts[name], fields_of_struct(type_))
    if modes and Networking.__name__ in parts:
        properties = parts[Networking.__name__]["properties"]
        properties.update(
            {field: _mode(properties[field], known) for field, known in modes.items()}
        )
    meta = parts[ObjectMeta.__name__]
    its_name = {
        "type": "string",
        "minLength": 1,
        "description": "Unique among the objects of this kind in its namespace.",
    }
    parts[_NAMED] = meta | {
        "properties": meta["properties"] | {"name": its_name},
        "required": ["name"],
    }
    documents = {kind.kind: _document(kind, parts[kind.__name__]) for kind in kinds}
    return {
        name: part for name, part in parts.items() if name not in {kind.__name__ for kind in kinds}
    } | documents


def _types_in(type_: type[Struct]) -> Iterator[type[Struct]]:
    """A type and all below it."""
    yield type_
    for field in fields_of_struct(type_):
        for below in structs_in(field.type):
            yield from _types_in(below)


def _completed(part: Schema, fields: Iterable[Field]) -> Schema:
    """What msgspec says of a type, with the fields' meanings, without defaults that say nothing, and null where nothing may stand."""
    properties = {field.name: _property(part["properties"][field.name], field) for field in fields}
    return part | {"properties": properties}


def _property(given: Schema, field: Field) -> Schema:
    found = {
        word: value
        for word, value in given.items()
        if word != "default" or value or isinstance(value, (bool, int))
    }
    if isinstance(found.get("additionalProperties"), dict):
        found["additionalProperties"] = _or_null(found["additionalProperties"])
    if not field.is_required:
        found = _or_null(found)
    return found | ({"description": field.note} if field.note else {})


def _or_null(given: Schema) -> Schema:
    """The schema, or null."""
    null = {"type": "null"}
    if "$ref" in given:
        return {word: value for word, value in given.items() if word != "$ref"} | {
            "anyOf": [{"$ref": given["$ref"]}, null]
        }
    if "anyOf" in given:
        return given if null in given["anyOf"] else given | {"anyOf": [*given["anyOf"], null]}
    if "enum" in given:
        return given | {"enum": [*given["enum"], None]}
    return given | {"type": [given["type"], "null"]} if "type" in given else given


def _mode(field: Schema, known: Mapping[str, type[Struct]]) -> Schema:
    """A mode by its name, or as a mapping of its name and options."""
    mappings = []
    for name, type_ in known.items():
        _, parts = msgspec.json.schema_components((type_,), ref_template=_PLACE + "{name}")
        options = _completed(parts[type_.__name__], fields_of_struct(type_))
        mappings.append(
            options
            | {
                "title": name,
                "properties": {"type": {"const": name}, **options["properties"]},
                "required": ["type"],
            }
        )
    return field | {"anyOf": [{"enum": list(known)}, *mappings, {"type": "null"}]}


def _document(kind: type[Resource], part: Schema) -> Schema:
    """A kind's type as a whole document; a status is the cluster's to write, and is not read."""
    properties: Schema = {}
    for field in fields_of(kind):
        match field:
            case Field(name="apiVersion" | "kind", type=inspect.LiteralType(values=values)):
                found: Schema = {"const": values[0]} if len(values) == 1 else {"enum": list(values)}
                properties[field.name] = found | {"description": field.doc}
            case Field(name="name"):
                properties[field.name] = {"type": ["string", "null"], "description": field.doc}
            case Field(name="metadata"):
                properties[field.name] = _reference(_NAMED)
            case _:
                properties[field.name] = part["properties"][field.name]
    properties["status"] = {"description": "Written by the cluster: what stands here is not read."}
    required = [field.name for field in fields_of(kind) if field.is_required]
    return part | {"title": kind.kind, "properties": properties, "required": required}


def _list() -> Schema:
    return {
        "description": "Several documents in one.",
        "properties": {"items": {"type": ["array", "null"], "items": {"$ref": "#"}}},
    }


def _other() -> Schema:
    """Any other kind: kept with whatever is in it, but of an API that there is."""
    versions = {
        version: {"kind": {"enum": sorted(kinds)}} for version, kinds in builtin.KINDS.items()
    }
    groups = {re.escape(group_of(version)) for version in versions if "/" in version}
    own = "|".join(re.escape(group_of(version)) for version in API_VERSIONS)
    return {
        "description": "A kind that the lab does not model: it is kept as it is.",
        "properties": {
            "metadata": {
                "type": "object",
                "properties": {"name": {"type": "string"}},
                "required": ["name"],
            }
        },
        "required": ["metadata"],
        "allOf": [
            *(
                {
                    "if": {"properties": {"apiVersion": {"const": version}}},
                    "then": {"properties": found},
                }
                for version, found in versions.items()
            ),
            {
                "if": {"properties": {"apiVersion": {"not": {"enum": list(versions)}}}},
                "then": {
                    "properties": {
                        "apiVersion": {"pattern": f"^(?!(?:{'|'.join(sorted(groups))})/).*/"}
                    }
                },
            },
            {
                "if": {
                    "properties": {
                        "apiVersion": {"not": {"enum": list(versions)}},
                        "kind": {"enum": sorted(builtin.all_kinds())},
                    }
                },
                "then": {"properties": {"apiVersion": {"pattern": r"^[^/]*\."}}},
            },
            {
                "if": {
                    "properties": {
                        "kind": {"const": ClusterConfig.kind},
                        "apiVersion": {"pattern": f"^(?:{own})/"},
                    }
                },
                "then": {"properties": {"apiVersion": {"enum": list(API_VERSIONS)}}},
            },
        ],
    }


def _is(kind: type[Resource]) -> Schema:
    """Holds for the documents of a kind."""
    return {
        "properties": {
            "apiVersion": {"enum": list(versions_of(kind))},
            "kind": {"const": kind.kind},
        },
        "required": ["apiVersion", "kind"],
    }


def _reference(name: str) -> Schema:
    return {"$ref": _PLACE + name}


def _used(parts: Mapping[str, Schema], root: Schema) -> dict[str, Schema]:
    """The parts that the root leads to, in their order: what only a status needs is left out."""
    found: set[str] = set()
    waiting: list[Any] = [root]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            name = str(value.get("$ref", "")).removeprefix(_PLACE)
            if name in parts and name not in found:
                found.add(name)
                waiting.append(parts[name])
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return {name: part for name, part in parts.items() if name in found}
