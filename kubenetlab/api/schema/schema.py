"""JSON Schema of manifests (draft 2020-12), for completion, help and validation in editors.

It validates the types of fields as the loader does. Unknown fields, of which the loader only warns,
are errors. Null is allowed for every optional field and counts as absent, as in Kubernetes. Rules
about more than one field are left to `plan`. One difference remains: to JSON Schema, 80.0 is a
whole number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec
from msgspec import Struct, inspect

from kubenetlab.api import builtin
from kubenetlab.api.config import ClusterConfig, Networking
from kubenetlab.api.config_versions import served_versions
from kubenetlab.api.json_types import JsonObject
from kubenetlab.api.kinds import CONFIG_GROUPS, WRITABLE, group_of
from kubenetlab.api.meta import ObjectMeta, Resource
from kubenetlab.api.schema.fields import (
    API_VERSION_DOC,
    KIND_DOC,
    Field,
    fields_of,
    fields_of_struct,
    structs_in,
    versions_of,
)

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_DEFINITIONS: Final = "#/$defs/"
"""Prefix of references to definitions."""

Schema = JsonObject
Modes = Mapping[str, Mapping[str, type[Struct]]]
"""Field of `networking` → name of a mode → its options."""

_NAMED, _LIST, _OTHER = "NamedObjectMeta", "List", "Other"
"""Names of definitions: metadata with a required name, lists, and kinds that are not modelled."""


def schema_of_documents(modes: Modes) -> Schema:
    """Return the schema of all documents: modelled kinds, lists, and other kinds."""
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
    cases = [(_is_of(kind), kind.kind) for kind in WRITABLE] + [(is_list, _LIST)]
    head = {
        "apiVersion": {"type": "string", "minLength": 1, "description": API_VERSION_DOC},
        "kind": {"type": "string", "minLength": 1, "description": KIND_DOC},
    }
    root: Schema = {
        "$schema": DIALECT,
        "title": "Manifest of kubenetlab",
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
    definitions = _definitions(WRITABLE, modes) | {_LIST: _list(), _OTHER: _other()}
    return root | {"$defs": _used(definitions, root)}


def schema_of_kind(kind: type[Resource], modes: Modes) -> Schema:
    """Return the schema of the documents of one kind."""
    definitions = _definitions((kind,), modes)
    root = {"$schema": DIALECT, **definitions.pop(kind.kind)}
    return root | {"$defs": _used(definitions, root)}


def _definitions(kinds: Iterable[type[Resource]], modes: Modes) -> dict[str, Schema]:
    """Return name → schema of each kind's documents and of each type inside them."""
    kinds = tuple(kinds)
    types = {type_.__name__: type_ for kind in kinds for type_ in _types_in(kind)}
    _, definitions = msgspec.json.schema_components(kinds, ref_template=_DEFINITIONS + "{name}")
    for name, type_ in types.items():
        definitions[name] = _completed(definitions[name], fields_of_struct(type_))
    if modes and Networking.__name__ in definitions:
        properties = definitions[Networking.__name__]["properties"]
        properties.update(
            {field: _mode(properties[field], options) for field, options in modes.items()}
        )
        for options in modes.values():
            definitions |= _types_of_options(options.values())
    meta = definitions[ObjectMeta.__name__]
    name_property = {
        "type": "string",
        "minLength": 1,
        "description": "Unique among the objects of this kind in its namespace.",
    }
    definitions[_NAMED] = meta | {
        "properties": meta["properties"] | {"name": name_property},
        "required": ["name"],
    }
    documents = {kind.kind: _document(kind, definitions[kind.__name__]) for kind in kinds}
    for kind in kinds:
        definitions.pop(kind.__name__)
    return definitions | documents


def _types_of_options(modes: Iterable[type[Struct]]) -> dict[str, Schema]:
    """Return name → schema of each type inside the options of modes."""
    found: dict[str, Schema] = {}
    for mode in modes:
        _, schemas = msgspec.json.schema_components((mode,), ref_template=_DEFINITIONS + "{name}")
        found |= {
            type_.__name__: _completed(schemas[type_.__name__], fields_of_struct(type_))
            for type_ in _types_in(mode)
            if type_ is not mode
        }
    return found


def _types_in(type_: type[Struct]) -> Iterator[type[Struct]]:
    """Yield a type and all types inside it."""
    yield type_
    for field in fields_of_struct(type_):
        for child in structs_in(field.type):
            yield from _types_in(child)


def _completed(schema: Schema, fields: Iterable[Field]) -> Schema:
    """Return the schema that msgspec makes of a struct, with completed properties."""
    properties = {
        field.name: _property(schema["properties"][field.name], field) for field in fields
    }
    return schema | {"properties": properties}


def _property(schema: Schema, field: Field) -> Schema:
    """Return the schema of a field: with its description and null, without an empty default."""
    completed = {
        keyword: value
        for keyword, value in schema.items()
        if keyword != "default" or value or isinstance(value, (bool, int))
    }
    if isinstance(completed.get("additionalProperties"), dict):
        completed["additionalProperties"] = _or_null(completed["additionalProperties"])
    if not field.is_required:
        completed = _or_null(completed)
    return completed | ({"description": field.note} if field.note else {})


def _or_null(schema: Schema) -> Schema:
    """Return a schema that allows null, too."""
    null = {"type": "null"}
    if "$ref" in schema:
        others = {keyword: value for keyword, value in schema.items() if keyword != "$ref"}
        return others | {"anyOf": [{"$ref": schema["$ref"]}, null]}
    if "anyOf" in schema:
        return schema if null in schema["anyOf"] else schema | {"anyOf": [*schema["anyOf"], null]}
    if "enum" in schema:
        return schema | {"enum": [*schema["enum"], None]}
    return schema | {"type": [schema["type"], "null"]} if "type" in schema else schema


def _mode(field: Schema, modes: Mapping[str, type[Struct]]) -> Schema:
    """Return the schema of a mode: its name, or a mapping of its name and options."""
    mappings = []
    for name, type_ in modes.items():
        _, definitions = msgspec.json.schema_components(
            (type_,), ref_template=_DEFINITIONS + "{name}"
        )
        options = _completed(definitions[type_.__name__], fields_of_struct(type_))
        mappings.append(
            options
            | {
                "title": name,
                "properties": {"type": {"const": name}, **options["properties"]},
                "required": ["type"],
            }
        )
    return field | {"anyOf": [{"enum": list(modes)}, *mappings, {"type": "null"}]}


def _document(kind: type[Resource], schema: Schema) -> Schema:
    """Return the schema of a kind's documents. The status can have any value: it is ignored."""
    properties: Schema = {}
    for field in fields_of(kind):
        match field:
            case Field(name="apiVersion" | "kind", type=inspect.LiteralType(values=values)):
                allowed: Schema = (
                    {"const": values[0]} if len(values) == 1 else {"enum": list(values)}
                )
                properties[field.name] = allowed | {"description": field.doc}
            case Field(name="name"):
                properties[field.name] = {"type": ["string", "null"], "description": field.doc}
            case Field(name="metadata"):
                properties[field.name] = _reference(_NAMED)
            case _:
                properties[field.name] = schema["properties"][field.name]
    properties["status"] = {"description": "Observed state. Set by the lab, and ignored here."}
    required = [field.name for field in fields_of(kind) if field.is_required]
    return schema | {"title": kind.kind, "properties": properties, "required": required}


def _list() -> Schema:
    return {
        "description": "List of documents.",
        "properties": {"items": {"type": ["array", "null"], "items": {"$ref": "#"}}},
    }


def _other() -> Schema:
    """Return the schema of kinds that the lab does not model.

    Their content is free. A kind of Kubernetes must have one of its API versions, and a kind in an
    API group of Kubernetes must exist.
    """
    versions = {
        version: {"kind": {"enum": sorted(kinds)}} for version, kinds in builtin.KINDS.items()
    }
    groups = {re.escape(group_of(version)) for version in versions if "/" in version}
    config_groups = "|".join(map(re.escape, CONFIG_GROUPS))
    return {
        "description": "Object of a kind that the lab does not model. It is stored as given.",
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
                    "then": {"properties": kinds},
                }
                for version, kinds in versions.items()
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
                "if": {"properties": {"apiVersion": {"pattern": f"^(?:{config_groups})/"}}},
                "then": {
                    "properties": {
                        "apiVersion": {"enum": list(served_versions())},
                        "kind": {"const": ClusterConfig.kind},
                    }
                },
            },
        ],
    }


def _is_of(kind: type[Resource]) -> Schema:
    """Return a schema that only documents of a kind match."""
    return {
        "properties": {
            "apiVersion": {"enum": list(versions_of(kind))},
            "kind": {"const": kind.document_kind()},
        },
        "required": ["apiVersion", "kind"],
    }


def _reference(name: str) -> Schema:
    return {"$ref": _DEFINITIONS + name}


def _used(definitions: Mapping[str, Schema], root: Schema) -> dict[str, Schema]:
    """Return the definitions that the root refers to, directly or not.

    Those that only a status uses are left out.
    """
    used: set[str] = set()
    queue: list[object] = [root]
    while queue:
        value = queue.pop()
        if isinstance(value, dict):
            name = str(value.get("$ref", "")).removeprefix(_DEFINITIONS)
            if name in definitions and name not in used:
                used.add(name)
                queue.append(definitions[name])
            queue += value.values()
        elif isinstance(value, list):
            queue += value
    return {name: schema for name, schema in definitions.items() if name in used}
