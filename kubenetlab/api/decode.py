"""Document → typed object, and what is wrong with a document that is none.

The common case is one call of msgspec. Only a document that fails is walked beside its type, so that every mistake in it is
reported at once, with its path, what was wanted, what was found, and the nearest known name of a mistyped field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct, inspect

from kubenetlab.api.documents import Path
from kubenetlab.errors import did_you_mean

T = TypeVar("T", bound=Struct)


class Finding(Struct, frozen=True):
    """One mistake in a document, not yet tied to its file and line."""

    path: Path
    message: str
    is_unknown_field: bool = False
    hints: tuple[str, ...] = ()
    is_warning: bool = False


class Decoded(Struct, Generic[T], frozen=True):
    """`value` is None when the document cannot be used; unknown fields alone do not prevent that."""

    value: T | None
    findings: tuple[Finding, ...] = ()
    rest: T | None = None
    """When there is no value: the document with samples in place of its mistakes, to look for further ones."""


def decode(document: Mapping[str, Any], type_: type[T]) -> Decoded[T]:
    """The document as `type_`; null counts as absent, as in Kubernetes."""
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


def is_beside(path: Path, others: Iterable[Path]) -> bool:
    """True when a path leads neither into one of the others, nor to something that holds one."""
    return not any(path[: len(other)] == other or other[: len(path)] == path for other in others)


def format_path(path: Path) -> str:
    """`("spec", "ports", 0, "port")` → `spec.ports[0].port`; keys with dots in brackets."""
    text = ""
    for step in path:
        if isinstance(step, int) or "." in step or "/" in step:
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text


def found(value: Any) -> str:
    """A value as a message shows it: short, with its kind where that is the point."""
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


def without_nulls(value: Any) -> Any:
    """A document without what is null: to Kubernetes that is the same as absent."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def _without(value: Any, paths: set[Path], here: Path = ()) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _without(item, paths, (*here, key))
            for key, item in value.items()
            if (*here, key) not in paths
        }
    if isinstance(value, list):
        return [_without(item, paths, (*here, index)) for index, item in enumerate(value)]
    return value


def _compare(value: Any, info: inspect.Type, path: Path) -> Iterator[Finding]:
    """The differences between a value and the type it should have."""
    title = None
    if isinstance(info, inspect.Metadata):
        title, info = (info.extra_json_schema or {}).get("title"), info.type
    match info:
        case inspect.AnyType():
            return
        case inspect.UnionType():
            yield from _compare_union(value, info, path)
        case inspect.StructType():
            yield from _compare_struct(value, info, path)
        case inspect.DictType():
            if not isinstance(value, Mapping):
                yield Finding(path, f"expected a mapping, found {found(value)}")
                return
            for key, item in value.items():
                yield from _compare(item, info.value_type, (*path, key))
        case inspect.VarTupleType() | inspect.ListType():
            if not isinstance(value, list):
                yield Finding(path, f"expected a list, found {found(value)}")
                return
            least = info.min_length or 0
            if len(value) < least or (info.max_length is not None and len(value) > info.max_length):
                yield Finding(
                    path,
                    f"expected a list of {least} to {info.max_length} entries, found {len(value)}",
                )
            for index, item in enumerate(value):
                yield from _compare(item, info.item_type, (*path, index))
        case inspect.LiteralType():
            if value not in info.values:
                known = ", ".join(str(option) for option in info.values if option != "")
                guess = (
                    did_you_mean(value, [str(option) for option in info.values])
                    if isinstance(value, str)
                    else ""
                )
                yield Finding(path, f"expected one of {known}, found {found(value)}{guess}")
        case inspect.IntType():
            if isinstance(value, bool) or not isinstance(value, int):
                yield Finding(path, f"expected {title or 'a whole number'}, found {found(value)}")
            elif (info.ge is not None and value < info.ge) or (
                info.le is not None and value > info.le
            ):
                span = (
                    f"from {info.ge} to {info.le}"
                    if info.le is not None
                    else f"of at least {info.ge}"
                )
                yield Finding(path, f"expected {title or 'a whole number'} {span}, found {value}")
        case inspect.FloatType():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                yield Finding(path, f"expected a number, found {found(value)}")
        case inspect.BoolType():
            if not isinstance(value, bool):
                yield Finding(path, f"expected true or false, found {found(value)}")
        case inspect.StrType():
            if not isinstance(value, str):
                quotes = "; put it in quotes" if isinstance(value, (int, float, bool)) else ""
                yield Finding(path, f"expected {title or 'a string'}, found {found(value)}{quotes}")
            elif info.min_length and len(value) < info.min_length:
                yield Finding(path, f"expected {title or 'a string'}, found an empty string")
            elif info.pattern and not re.search(info.pattern, value):
                yield Finding(
                    path,
                    f"expected {title or f'something like {info.pattern}'}, found {found(value)}",
                )


def _repaired(value: Any, info: inspect.Type) -> Any:
    """The value with every mistake that `_compare` finds taken out, or replaced by a sample where something must stand."""
    whole, info = info, _bare(info)
    match info:
        case inspect.StructType() if isinstance(value, Mapping):
            fields = {field.encode_name: field for field in info.fields}
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
            return {key: _repaired(item, info.value_type) for key, item in value.items()}
        case inspect.VarTupleType() | inspect.ListType() if isinstance(value, list):
            enough = max(0, (info.min_length or 0) - len(value))
            return [
                *(_repaired(item, info.item_type) for item in value),
                *[_sample(info.item_type)] * enough,
            ][: info.max_length]
        case inspect.UnionType():
            fitting = next((option for option in info.types if _fits(value, option)), None)
            return _repaired(value, fitting) if fitting is not None else _sample(info)
    return value if not any(_compare(value, whole, ())) else _sample(whole)


def _sample(info: inspect.Type) -> Any:
    """Something that fits a type; where a pattern decides, the type brings an example."""
    if (
        isinstance(info, inspect.Metadata)
        and info.extra_json_schema
        and "examples" in info.extra_json_schema
    ):
        return info.extra_json_schema["examples"][0]
    info = _bare(info)
    match info:
        case inspect.StructType():
            return {
                field.encode_name: _sample(field.type) for field in info.fields if field.required
            }
        case inspect.VarTupleType() | inspect.ListType():
            return [_sample(info.item_type)] * (info.min_length or 0)
        case inspect.DictType():
            return {}
        case inspect.UnionType():
            return None if inspect.NoneType() in info.types else _sample(info.types[0])
        case inspect.LiteralType():
            return info.values[0]
        case inspect.IntType() | inspect.FloatType():
            return max(1, info.ge or 0)
        case inspect.BoolType():
            return False
        case inspect.StrType():
            return "x"
    return None


def _compare_union(value: Any, info: inspect.UnionType, path: Path) -> Iterator[Finding]:
    options = [option for option in info.types if not isinstance(option, inspect.NoneType)]
    fitting = [option for option in options if _fits(value, option)]
    if fitting:
        yield from _compare(value, fitting[0], path)
    elif len(options) == 1:
        yield from _compare(value, options[0], path)
    else:
        yield Finding(
            path,
            f"expected {' or '.join(_noun(option) for option in options)}, found {found(value)}",
        )


def _compare_struct(value: Any, info: inspect.StructType, path: Path) -> Iterator[Finding]:
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


def _fits(value: Any, info: inspect.Type) -> bool:
    match _bare(info):
        case inspect.IntType():
            return isinstance(value, int) and not isinstance(value, bool)
        case inspect.FloatType():
            return isinstance(value, float)
        case inspect.StrType():
            return isinstance(value, str)
        case inspect.StructType() | inspect.DictType():
            return isinstance(value, Mapping)
        case inspect.LiteralType(values=values):
            return value in values
    return False


def _noun(info: inspect.Type) -> str:
    if (
        isinstance(info, inspect.Metadata)
        and info.extra_json_schema
        and "title" in info.extra_json_schema
    ):
        return str(info.extra_json_schema["title"])
    match _bare(info):
        case inspect.IntType():
            return "a whole number"
        case inspect.FloatType():
            return "a number"
        case inspect.StrType():
            return "a string"
        case inspect.StructType() | inspect.DictType():
            return "a mapping"
    return "another value"


def _bare(info: inspect.Type) -> inspect.Type:
    return info.type if isinstance(info, inspect.Metadata) else info
