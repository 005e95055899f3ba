"""Fields of documents with their types, bounds and descriptions.

`explain` shows them, and the JSON Schema for editors is made of them. They are read from the types:
from annotations, class docstrings, and the docstrings under fields.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from inspect import cleandoc, getsource

import msgspec
from msgspec import Struct, inspect

from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.config_versions import served_versions
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.meta import Resource
from kubenetlab.errors import UsageError, did_you_mean

API_VERSION_DOC = "API group and version of the object."
KIND_DOC = "Kind of the object."
WITHOUT_EFFECT = "Accepted and stored, but without effect in the lab."
_BARE_SCALARS: Mapping[type[inspect.Type], str] = {
    inspect.AnyType: "any",
    inspect.BoolType: "boolean",
    inspect.FloatType: "number",
    inspect.IntType: "integer",
    inspect.StrType: "string",
}


class Field(Struct, frozen=True):
    """Field of a document, or of a value in it."""

    name: str
    """Name in Kubernetes' spelling."""
    type: inspect.Type
    """Type without null, which stands for an absent field."""
    doc: str = ""
    """Docstring under the field."""
    is_required: bool = False
    default: object = None

    @property
    def is_modelled(self) -> bool:
        """False for a field that the lab accepts and does not use."""
        return not isinstance(self.type, inspect.AnyType)

    @property
    def note(self) -> str:
        """Docstring, and a remark on a field without effect."""
        return (
            self.doc
            if self.is_modelled
            else "\n".join(part for part in (self.doc, WITHOUT_EFFECT) if part)
        )


class FieldSummary(Struct, frozen=True):
    """Field in a list of fields."""

    name: str
    type: str
    """Type in kubectl's notation."""
    bounds: tuple[str, ...]
    """Constraints on its values, as in `Explanation`."""
    has_fields: bool
    """True if the field has fields itself."""


class Explanation(Struct, frozen=True):
    """Description of a kind, or of a field of a kind."""

    kind: str
    versions: tuple[str, ...]
    """API versions of the kind."""
    path: str
    """Path from the top of the document, without indices; empty for the kind itself."""
    type: str
    """Type in kubectl's notation."""
    description: str
    bounds: tuple[str, ...]
    """Constraints on its values: `required`, `1 to 65535`, `one of TCP, UDP`, `default TCP`."""
    fields: tuple[FieldSummary, ...]
    """Fields of the kind or field."""


def explain(kind: type[Resource], path: str = "") -> Explanation:
    """Return the description of the field at a path such as `spec.containers[0].ports`.

    Indices and keys in brackets, as in messages, are ignored. Raises UsageError for an unknown
    field.
    """
    steps = [step for step in re.sub(r"\[[^\]]*\]", "", path).split(".") if step]
    children, field = fields_of(kind), None
    for number, step in enumerate(steps):
        by_name = {child.name: child for child in children}
        if step not in by_name:
            raise _unknown_field(kind, steps[: number + 1], field, by_name)
        field = by_name[step]
        children = fields_below(field.type)
    summaries = tuple(
        FieldSummary(
            child.name,
            type_name(child.type),
            tuple(bounds(child)) if child.is_modelled else ("without effect",),
            any(structs_in(child.type)),
        )
        for child in children
    )
    title = (kind.kind, versions_of(kind), ".".join(steps))
    if field is None:
        return Explanation(*title, "Object", class_doc(kind), (), summaries)
    return Explanation(
        *title, type_name(field.type), describe(field), tuple(bounds(field)), summaries
    )


def versions_of(kind: type[Resource]) -> tuple[str, ...]:
    """Return the API versions of a kind, the lab's own first."""
    if kind is ClusterConfig:
        return served_versions()
    return (kind.api_version, *kind.other_api_versions)


def fields_of(kind: type[Resource]) -> tuple[Field, ...]:
    """Return the fields at the top of a kind's documents.

    A Cluster document has a name there and no metadata.
    """
    head = (
        Field(
            "apiVersion",
            inspect.LiteralType(versions_of(kind)),
            API_VERSION_DOC,
            is_required=True,
        ),
        Field("kind", inspect.LiteralType((kind.document_kind(),)), KIND_DOC, is_required=True),
    )
    own = fields_of_struct(kind)
    if kind is not ClusterConfig:
        return head + own
    name = Field("name", inspect.StrType(), "Name of the lab. The option --lab overrides it.")
    return (*head, name, *(field for field in own if field.name != "metadata"))


@cache
def fields_of_struct(type_: type[Struct]) -> tuple[Field, ...]:
    """Return the fields of a type, in the order of its definition."""
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
    """Return the fields of a value of this type, or of the entries of a list or mapping."""
    struct = next(structs_in(info), None)
    return fields_of_struct(struct) if struct is not None else ()


def structs_in(info: inspect.Type) -> Iterator[type[Struct]]:
    """Yield the structs that a value of this type contains, itself or as entries."""
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
    """Return a type in kubectl's notation, such as `[]Container`; `integer|string` for a union."""
    match info:
        case inspect.Metadata():
            return type_name(info.type)
        case inspect.StructType():
            return info.cls.__name__
        case inspect.LiteralType(values=values):
            return "integer" if all(isinstance(value, int) for value in values) else "string"
        case inspect.VarTupleType() | inspect.ListType():
            return f"[]{type_name(info.item_type)}"
        case inspect.DictType():
            return f"map[string]{type_name(info.value_type)}"
        case inspect.UnionType():
            options = (entry for entry in info.types if not isinstance(entry, inspect.NoneType))
            return "|".join(dict.fromkeys(map(type_name, options)))
    return _BARE_SCALARS[type(info)]


def bounds(field: Field) -> Iterator[str]:
    """Yield the constraints on the values of a field, and its default."""
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


def describe(field: Field) -> str:
    """Return the docstring of a field and those of the structs that it contains."""
    return "\n".join(
        part
        for part in (field.note, *(class_doc(struct) for struct in structs_in(field.type)))
        if part
    )


def class_doc(type_: type) -> str:
    """Return the docstring of a class."""
    return cleandoc(type_.__doc__ or "")


def attribute_docs(type_: type[Struct]) -> Mapping[str, str]:
    """Return attribute → docstring under the field, including inherited fields."""
    docs: dict[str, str] = {}
    for cls in reversed(type_.__mro__):
        docs.update(_docs_of_module(cls.__module__).get(cls.__name__, {}))
    return docs


@cache
def _docs_of_module(name: str) -> Mapping[str, Mapping[str, str]]:
    """Return class → attribute → docstring under the field, for a module of this package.

    Return an empty mapping for other modules, and if the source is not available.
    """
    if not name.startswith(f"{__name__.partition('.')[0]}."):
        return {}
    try:
        tree = ast.parse(getsource(import_module(name)))
    except OSError:
        return {}
    return {
        cls.name: {
            field.target.id: cleandoc(following.value.value).strip()
            for field, following in zip(cls.body, cls.body[1:], strict=False)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        }
        for cls in tree.body
        if isinstance(cls, ast.ClassDef)
    }


def _limit(info: inspect.Type) -> str:
    """Return the constraints of a type; an empty text if there are none."""
    extra: JsonMapping = {}
    if isinstance(info, inspect.Metadata):
        extra, info = info.extra_json_schema or {}, info.type
    match info:
        case inspect.UnionType():
            return ", or ".join(limit for option in info.types if (limit := _limit(option)))
        case inspect.LiteralType():
            values = [str(value) for value in info.values if value != ""]
            return f"one of {', '.join(values)}" if len(values) > 1 else f"always {values[0]}"
        case inspect.IntType():
            if info.le is not None:
                return f"{info.ge} to {info.le}"
            return f"{info.ge} or more" if info.ge is not None else ""
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


def _default(field: inspect.Field) -> object:
    return None if field.default is msgspec.NODEFAULT else field.default


def _unknown_field(
    kind: type[Resource], steps: list[str], parent: Field | None, known: Mapping[str, Field]
) -> UsageError:
    """Return the error for a path whose last step is not a field of `parent`."""
    *parent_steps, step = steps
    place = ".".join((kind.kind, *parent_steps))
    if known:
        modelled = ", ".join(name for name, field in known.items() if field.is_modelled)
        return UsageError(
            f'{place} has no field "{step}"{did_you_mean(step, known)}\n  known: {modelled}'
        )
    assert parent is not None
    if not parent.is_modelled:
        return UsageError(f'{place} is stored as given: its field "{step}" is not known to the lab')
    return UsageError(f'{place} is of type {type_name(parent.type)}: it has no field "{step}"')
