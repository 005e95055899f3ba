"""Document → typed object, or the findings about a document that does not have the type.

A valid document takes one call of msgspec. Only a document that fails is compared with its type
field by field, so that every mistake is reported at once: the path, the expected and the found
value, and the nearest known name of a misspelled field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Generic, TypeVar

import msgspec
from msgspec import Struct, inspect

from kubenetlab.api.json_types import JsonMapping, JsonValue
from kubenetlab.api.text.documents import Path
from kubenetlab.errors import did_you_mean

T = TypeVar("T", bound=Struct)


class Finding(Struct, frozen=True):
    """Mistake in a document, without the file and the line."""

    path: Path
    """Path of the field."""
    message: str
    """Description of the mistake."""
    is_unknown_field: bool = False
    """True for an unknown field, which is an error only in strict mode."""
    hints: tuple[str, ...] = ()
    """Further lines of the report."""
    is_warning: bool = False
    """True if the document can be used nevertheless."""


class Decoded(Struct, Generic[T], frozen=True):
    """Result of decoding a document."""

    value: T | None
    """The object; None if there are findings other than unknown fields."""
    findings: tuple[Finding, ...] = ()
    """Mistakes in the document."""
    repaired: T | None = None
    """If there is no value: the object with samples in place of the mistakes.

    It can be validated, to report further mistakes together with the findings.
    """


def decode(document: JsonMapping, type_: type[T]) -> Decoded[T]:
    """Decode a document as `type_`. Null counts as absent, as in Kubernetes."""
    try:
        return Decoded(msgspec.convert(document, type_))
    except msgspec.ValidationError:
        pruned = without_nulls(document)
    findings = tuple(_compare(pruned, inspect.type_info(type_), ()))
    if all(finding.is_unknown_field for finding in findings):
        return Decoded(
            msgspec.convert(_without(pruned, {finding.path for finding in findings}), type_),
            findings,
        )
    return Decoded(
        None, findings, msgspec.convert(_repaired(pruned, inspect.type_info(type_)), type_)
    )


def is_disjoint(path: Path, others: Iterable[Path]) -> bool:
    """Return True if none of the other paths is above, below or equal to a path."""
    return not any(path[: len(other)] == other or other[: len(path)] == path for other in others)


def format_path(path: Path) -> str:
    """Return a path in Kubernetes' notation: `("spec", "ports", 0, "port")` → `spec.ports[0].port`.

    Keys with dots or slashes are in brackets.
    """
    text = ""
    for step in path:
        if isinstance(step, int) or "." in step or "/" in step:
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text


def found(value: object) -> str:
    """Return a value as messages show it: a short text, or the type of a mapping or list."""
    match value:
        case bool():
            return f"{str(value).lower()} (true/false)"
        case str():
            return f'"{value}"' if len(value) <= 60 else f'"{value[:57]}…"'
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case None:
            return "nothing"
    return str(value)


def without_nulls(value: object) -> JsonValue:
    """Return a document without null values, which to Kubernetes are the same as absent ones."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def _without(value: object, paths: set[Path], prefix: Path = ()) -> JsonValue:
    """Return a document without the fields at some paths. `prefix` is the path of `value`."""
    if isinstance(value, Mapping):
        return {
            key: _without(item, paths, (*prefix, key))
            for key, item in value.items()
            if (*prefix, key) not in paths
        }
    if isinstance(value, list):
        return [_without(item, paths, (*prefix, index)) for index, item in enumerate(value)]
    return value


def _compare(value: object, info: inspect.Type, path: Path) -> Iterator[Finding]:
    """Yield the differences between a value and its type. Values of other types always fit."""
    title = _title(info)
    bare = _without_metadata(info)
    compare = _COMPARISONS.get(type(bare))
    if compare is not None:
        yield from compare(value, bare, path, title)


def _compare_union(
    value: object, info: inspect.UnionType, path: Path, title: str
) -> Iterator[Finding]:
    options = [option for option in info.types if not isinstance(option, inspect.NoneType)]
    candidates = [option for option in options if _has_type(value, option)]
    if candidates:
        yield from _compare(value, candidates[0], path)
    elif len(options) == 1:
        yield from _compare(value, options[0], path)
    else:
        *nouns, last = dict.fromkeys(noun for option in options for noun in _nouns(option))
        expected = f"{', '.join(nouns)} or {last}" if nouns else last
        yield Finding(path, f"expected {expected}, found {found(value)}")


def _compare_struct(
    value: object, info: inspect.StructType, path: Path, title: str
) -> Iterator[Finding]:
    if not isinstance(value, Mapping):
        yield Finding(path, f"expected a mapping, found {found(value)}")
        return
    fields = {field.encode_name: field for field in info.fields}
    for name, item in value.items():
        if name in fields:
            yield from _compare(item, fields[name].type, (*path, name))
        else:
            yield Finding(
                (*path, name), f"unknown field{did_you_mean(name, fields)}", is_unknown_field=True
            )
    for name, field in fields.items():
        if field.required and name not in value:
            yield Finding((*path, name), "required, but missing")


def _compare_dict(
    value: object, info: inspect.DictType, path: Path, title: str
) -> Iterator[Finding]:
    if not isinstance(value, Mapping):
        yield Finding(path, f"expected a mapping, found {found(value)}")
        return
    for key, item in value.items():
        yield from _compare(item, info.value_type, (*path, key))


def _compare_list(
    value: object, info: inspect.VarTupleType | inspect.ListType, path: Path, title: str
) -> Iterator[Finding]:
    if not isinstance(value, list):
        yield Finding(path, f"expected a list, found {found(value)}")
        return
    least = info.min_length or 0
    if len(value) < least or (info.max_length is not None and len(value) > info.max_length):
        yield Finding(
            path, f"expected a list of {least} to {info.max_length} entries, found {len(value)}"
        )
    for index, item in enumerate(value):
        yield from _compare(item, info.item_type, (*path, index))


def _compare_literal(
    value: object, info: inspect.LiteralType, path: Path, title: str
) -> Iterator[Finding]:
    if value in info.values:
        return
    options = [str(option) for option in info.values]
    known = ", ".join(option for option in options if option != "")
    guess = did_you_mean(value, options) if isinstance(value, str) else ""
    yield Finding(path, f"expected one of {known}, found {found(value)}{guess}")


def _compare_int(value: object, info: inspect.IntType, path: Path, title: str) -> Iterator[Finding]:
    noun = title or "a whole number"
    if isinstance(value, bool) or not isinstance(value, int):
        yield Finding(path, f"expected {noun}, found {found(value)}")
    elif (info.ge is not None and value < info.ge) or (info.le is not None and value > info.le):
        limits = f"from {info.ge} to {info.le}" if info.le is not None else f"of at least {info.ge}"
        yield Finding(path, f"expected {noun} {limits}, found {value}")


def _compare_float(
    value: object, info: inspect.FloatType, path: Path, title: str
) -> Iterator[Finding]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        yield Finding(path, f"expected a number, found {found(value)}")


def _compare_bool(
    value: object, info: inspect.BoolType, path: Path, title: str
) -> Iterator[Finding]:
    if not isinstance(value, bool):
        yield Finding(path, f"expected true or false, found {found(value)}")


def _compare_str(value: object, info: inspect.StrType, path: Path, title: str) -> Iterator[Finding]:
    if not isinstance(value, str):
        quotes = "; put it in quotes" if isinstance(value, (int, float, bool)) else ""
        yield Finding(path, f"expected {title or 'a string'}, found {found(value)}{quotes}")
    elif info.min_length and len(value) < info.min_length:
        yield Finding(path, f"expected {title or 'a string'}, found an empty string")
    elif info.pattern and not re.search(info.pattern, value):
        noun = title or f"something like {info.pattern}"
        yield Finding(path, f"expected {noun}, found {found(value)}")


_COMPARISONS: Final[Mapping[type[inspect.Type], Callable[..., Iterator[Finding]]]] = {
    inspect.UnionType: _compare_union,
    inspect.StructType: _compare_struct,
    inspect.DictType: _compare_dict,
    inspect.VarTupleType: _compare_list,
    inspect.ListType: _compare_list,
    inspect.LiteralType: _compare_literal,
    inspect.IntType: _compare_int,
    inspect.FloatType: _compare_float,
    inspect.BoolType: _compare_bool,
    inspect.StrType: _compare_str,
}
"""Type → comparison of (value, type without metadata, path, title of the type or "")."""


def _repaired(value: object, info: inspect.Type) -> JsonValue:
    """Return a value without the mistakes that `_compare` finds.

    A mistake is left out, or replaced by a sample where a value is required.
    """
    bare = _without_metadata(info)
    match bare:
        case inspect.StructType() if isinstance(value, Mapping):
            fields = {field.encode_name: field for field in bare.fields}
            kept = {
                name: _repaired(item, fields[name].type)
                for name, item in value.items()
                if name in fields
            }
            missing = {
                name: _sample(field.type)
                for name, field in fields.items()
                if field.required and name not in value
            }
            return kept | missing
        case inspect.DictType() if isinstance(value, Mapping):
            return {key: _repaired(item, bare.value_type) for key, item in value.items()}
        case inspect.VarTupleType() | inspect.ListType() if isinstance(value, list):
            missing_entries = max(0, (bare.min_length or 0) - len(value))
            return [
                *(_repaired(item, bare.item_type) for item in value),
                *[_sample(bare.item_type)] * missing_entries,
            ][: bare.max_length]
        case inspect.UnionType():
            option = next((option for option in bare.types if _has_type(value, option)), None)
            return _repaired(value, option) if option is not None else _sample(bare)
    return value if not any(_compare(value, info, ())) else _sample(info)


def _sample(info: inspect.Type) -> JsonValue:
    """Return a value of a type: the example in its metadata, if there is one."""
    examples = _extra(info).get("examples")
    if examples:
        return examples[0]
    bare = _without_metadata(info)
    match bare:
        case inspect.StructType():
            return {
                field.encode_name: _sample(field.type) for field in bare.fields if field.required
            }
        case inspect.VarTupleType() | inspect.ListType():
            return [_sample(bare.item_type)] * (bare.min_length or 0)
        case inspect.DictType():
            return {}
        case inspect.UnionType():
            return None if inspect.NoneType() in bare.types else _sample(bare.types[0])
        case inspect.LiteralType():
            return bare.values[0]
        case inspect.IntType() | inspect.FloatType():
            return max(1, bare.ge or 0)
        case inspect.BoolType():
            return False
        case inspect.StrType():
            return "x"
    return None


def _has_type(value: object, info: inspect.Type) -> bool:
    """Return True if a value has the type of a union's option, whatever its bounds."""
    match _without_metadata(info):
        case inspect.IntType():
            return isinstance(value, int) and not isinstance(value, bool)
        case inspect.FloatType():
            return isinstance(value, float)
        case inspect.StrType():
            return isinstance(value, str)
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.StructType() | inspect.DictType():
            return isinstance(value, Mapping)
        case inspect.LiteralType(values=values):
            return value in values
    return False


def _nouns(info: inspect.Type) -> list[str]:
    """Return a type as messages name it: by one noun, or by its values."""
    if title := _title(info):
        return [title]
    match _without_metadata(info):
        case inspect.IntType():
            return ["a whole number"]
        case inspect.FloatType():
            return ["a number"]
        case inspect.StrType():
            return ["a string"]
        case inspect.StructType() | inspect.DictType():
            return ["a mapping"]
        case inspect.BoolType():
            return ["true", "false"]
        case inspect.LiteralType(values=values):
            return [str(value) for value in values if value != ""]
    return ["another value"]


def _title(info: inspect.Type) -> str:
    return str(_extra(info).get("title", ""))


def _extra(info: inspect.Type) -> JsonMapping:
    return (info.extra_json_schema or {}) if isinstance(info, inspect.Metadata) else {}


def _without_metadata(info: inspect.Type) -> inspect.Type:
    return info.type if isinstance(info, inspect.Metadata) else info
