"""What fields a document may have, with types, bounds and meaning: what `explain` shows and the schema for editors is made of.

All of it is read from the types: their annotations, the docstrings of their classes, and those under their fields.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from inspect import cleandoc, getsource
from typing import Any

import msgspec
from msgspec import Struct, inspect

from kubenetlab.api.config import API_VERSIONS, ClusterConfig
from kubenetlab.api.meta import Resource
from kubenetlab.errors import UsageError, did_you_mean

WITHOUT_EFFECT = "Accepted and stored, but without effect in the lab."
_BARE_SCALARS: Mapping[type[inspect.Type], str] = {
    inspect.AnyType: "any",
    inspect.BoolType: "boolean",
    inspect.FloatType: "number",
    inspect.IntType: "integer",
    inspect.StrType: "string",
}


class Field(Struct, frozen=True):
    """One field of a document or of something in it."""

    name: str
    type: inspect.Type
    """Without the null that stands for nothing."""
    doc: str = ""
    is_required: bool = False
    default: Any = None

    @property
    def is_modelled(self) -> bool:
        """False for what is accepted and not used."""
        return not isinstance(self.type, inspect.AnyType)

    @property
    def note(self) -> str:
        """What is written under it, and whether it has an effect."""
        return (
            self.doc
            if self.is_modelled
            else "\n".join(part for part in (self.doc, WITHOUT_EFFECT) if part)
        )


class Line(Struct, frozen=True):
    """A field among others, on one line."""

    name: str
    type: str
    bounds: tuple[str, ...]
    has_fields: bool


class Explanation(Struct, frozen=True):
    """Everything there is to say of a kind, or of one field of it."""

    kind: str
    versions: tuple[str, ...]
    path: str
    """From the document's top, as in messages; empty for the kind itself."""
    type: str
    description: str
    bounds: tuple[str, ...]
    """What values it takes: `required`, `1 to 65535`, `one of TCP, UDP`, `default TCP`."""
    fields: tuple[Line, ...]
    """What is below it."""


def explain(kind: type[Resource], path: str = "") -> Explanation:
    """The field of a kind that a path such as `spec.containers[0].ports` leads to. Raises UsageError when there is none.

    Brackets, as messages have them, count for nothing.
    """
    steps = [step for step in re.sub(r"\[[^\]]*\]", "", path).split(".") if step]
    below, found = fields_of(kind), None
    for number, step in enumerate(steps):
        known = {field.name: field for field in below}
        if step not in known:
            raise _unknown_field(kind, steps[: number + 1], found, known)
        found = known[step]
        below = fields_below(found.type)
    lines = tuple(
        Line(
            field.name,
            type_name(field.type),
            tuple(bounds(field)) if field.is_modelled else ("without effect",),
            any(structs_in(field.type)),
        )
        for field in below
    )
    title = (kind.kind, versions_of(kind), ".".join(steps))
    if found is None:
        return Explanation(*title, "Object", class_doc(kind), (), lines)
    return Explanation(*title, type_name(found.type), meaning(found), tuple(bounds(found)), lines)


def versions_of(kind: type[Resource]) -> tuple[str, ...]:
    """The API versions under which a kind is read; the first is the lab's own."""
    return API_VERSIONS if kind is ClusterConfig else (kind.api_version,)


def fields_of(kind: type[Resource]) -> tuple[Field, ...]:
    """The fields at the top of a kind's documents; the Cluster document has its name there, and no metadata."""
    head = (
        Field(
            "apiVersion",
            inspect.LiteralType(versions_of(kind)),
            "The API group, and which version of it.",
            is_required=True,
        ),
        Field(
            "kind",
            inspect.LiteralType((kind.kind,)),
            "What this document describes.",
            is_required=True,
        ),
    )
    own = fields_of_struct(kind)
    if kind is not ClusterConfig:
        return head + own
    name = Field("name", inspect.StrType(), "What the lab is called, unless --lab says otherwise.")
    return (*head, name, *(field for field in own if field.name != "metadata"))


@cache
def fields_of_struct(type_: type[Struct]) -> tuple[Field, ...]:
    """The fields of one of our types, in its order, with Kubernetes' names."""
    docs = attribute_docs(type_)
    info = inspect.type_info(type_)
    assert isinstance(info, inspect.StructType)
    return tuple(
        Field(
            field.encode_name,
            _without_null(field.type),
            docs.get(field.name, ""),
            field.required,
            _default(field),
        )
        for field in info.fields
    )


def fields_below(info: inspect.Type) -> tuple[Field, ...]:
    """The fields of a value of this type, or of each entry of a list of them; none for what has no fields."""
    struct = next(structs_in(info), None)
    return fields_of_struct(struct) if struct is not None else ()


def structs_in(info: inspect.Type) -> Iterator[type[Struct]]:
    """The types of ours that a field of this type holds, at its top or as entries."""
    match info:
        case inspect.StructType():
            yield info.cls
        case inspect.Metadata():
            yield from structs_in(info.type)
        case inspect.UnionType():
            for option in info.types:
                yield from structs_in(option)
        case inspect.VarTupleType() | inspect.ListType():
            yield from structs_in(info.item_type)
        case inspect.DictType():
            yield from structs_in(info.value_type)


def type_name(info: inspect.Type) -> str:
    """A type in kubectl's notation: `string`, `[]Container`, `map[string]string`; `integer|string` for either."""
    match info:
        case inspect.Metadata():
            return type_name(info.type)
        case inspect.StructType():
            return info.cls.__name__
        case inspect.LiteralType():
            return "string"
        case inspect.VarTupleType() | inspect.ListType():
            return f"[]{type_name(info.item_type)}"
        case inspect.DictType():
            return f"map[string]{type_name(info.value_type)}"
        case inspect.UnionType():
            return "|".join(dict.fromkeys(type_name(option) for option in info.types))
    return _BARE_SCALARS[type(info)]


def bounds(field: Field) -> Iterator[str]:
    """What values a field takes, each limit by itself."""
    if field.is_required:
        yield "required"
    if limit := _limit(field.type):
        yield limit
    if isinstance(field.default, bool):
        yield f"default {str(field.default).lower()}"
    elif isinstance(field.default, (int, float)) or (
        isinstance(field.default, str) and field.default
    ):
        yield f"default {field.default}"


def meaning(field: Field) -> str:
    """What is written under the field, and what its type is."""
    return "\n".join(
        part
        for part in (field.note, *(class_doc(struct) for struct in structs_in(field.type)))
        if part
    )


def class_doc(type_: type) -> str:
    """The docstring of a class."""
    return cleandoc(type_.__doc__ or "")


def attribute_docs(type_: type[Struct]) -> Mapping[str, str]:
    """Our name of a field → the docstring under it."""
    docs: dict[str, str] = {}
    for cls in reversed(type_.__mro__):
        docs.update(_docs_of_module(cls.__module__).get(cls.__name__, {}))
    return docs


@cache
def _docs_of_module(name: str) -> Mapping[str, Mapping[str, str]]:
    """Class → field → the docstring under it, for a module of ours; nothing where Python has no source to read."""
    if not name.startswith(f"{__name__.partition('.')[0]}."):
        return {}
    try:
        tree = ast.parse(getsource(import_module(name)))
    except OSError:
        return {}
    return {
        cls.name: {
            field.target.id: cleandoc(after.value.value).strip()
            for field, after in zip(cls.body, cls.body[1:], strict=False)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        }
        for cls in tree.body
        if isinstance(cls, ast.ClassDef)
    }


def _limit(info: inspect.Type) -> str:
    """The values that a type takes, in words; empty where its name says enough."""
    extra: Mapping[str, Any] = {}
    if isinstance(info, inspect.Metadata):
        extra, info = info.extra_json_schema or {}, info.type
    match info:
        case inspect.UnionType():
            return ", or ".join(limit for option in info.types if (limit := _limit(option)))
        case inspect.LiteralType():
            values = [str(value) for value in info.values if value != ""]
            return f"one of {', '.join(values)}" if len(values) > 1 else f"always {values[0]}"
        case inspect.IntType():
            return (
                f"{info.ge} to {info.le}"
                if info.le is not None
                else f"{info.ge} or more"
                if info.ge is not None
                else ""
            )
        case inspect.StrType():
            if "examples" in extra:
                return f"a string such as {extra['examples'][0]}"
            return str(extra.get("title", "not empty" if info.min_length else ""))
        case inspect.VarTupleType() | inspect.ListType():
            if info.max_length is not None:
                return f"{info.min_length or 0} to {info.max_length} entries"
            return _limit(info.item_type)
    return ""


def _without_null(info: inspect.Type) -> inspect.Type:
    if not isinstance(info, inspect.UnionType):
        return info
    options = tuple(option for option in info.types if not isinstance(option, inspect.NoneType))
    return options[0] if len(options) == 1 else inspect.UnionType(options)


def _default(field: inspect.Field) -> Any:
    return None if field.default is msgspec.NODEFAULT else field.default


def _unknown_field(
    kind: type[Resource], steps: list[str], above: Field | None, known: Mapping[str, Field]
) -> UsageError:
    *before, step = steps
    place = ".".join((kind.kind, *before))
    if known:
        modelled = ", ".join(name for name, field in known.items() if field.is_modelled)
        return UsageError(
            f'{place} has no field "{step}"{did_you_mean(step, known)}\n  known: {modelled}'
        )
    assert above is not None
    if not above.is_modelled:
        return UsageError(f'{place} is kept as it was given: the lab knows no field "{step}" of it')
    return UsageError(f'{place} is of type {type_name(above.type)}: it has no field "{step}"')
