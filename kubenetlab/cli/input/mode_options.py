"""Modes with options on the command line, such as `bridge,layout=routed`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import typer

_EXAMPLE: Final = "'{type: bridge, layout: routed}'"


def parse_mode(text: str) -> dict[str, object]:
    """Parse a mode with options into its form in a Cluster document.

    `bridge,layout=routed` becomes `{type: bridge, layout: routed}`. Lists are written in brackets
    (`ranges=[a,b]`), fields of mappings with a dot (`detectLocal.bridgeInterface=cbr0`). Text that
    begins with a brace is the mapping itself, in YAML or JSON.
    Raises BadParameter.
    """
    if text.lstrip().startswith("{"):
        return _mapping(text)
    name, *rest = _parts(text)
    document: dict[str, object] = {"type": name}
    for part in rest:
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f'"{part}": expected OPTION=VALUE')
        if value.lstrip("[ ").startswith("{"):
            option = "[{…}]" if value.startswith("[") else "{…}"
            raise typer.BadParameter(
                f'"{part}": expected a value or a list of values, found a mapping; write the whole '
                f"mode as in a Cluster document: '{{type: {document['type']}, {key}: {option}}}'"
            )
        if value.startswith("[") and not value.endswith("]"):
            raise typer.BadParameter(f'"{part}": expected a list in brackets, such as {key}=[a,b]')
        *parents, last = key.split(".")
        mapping: dict[str, object] = document
        for name in parents:
            inner = mapping.setdefault(name, {})
            if not isinstance(inner, dict):
                raise typer.BadParameter(f'"{part}": {name} already has the value {inner}')
            mapping = inner
        if last in mapping:
            raise typer.BadParameter(f'"{part}": {key} already has the value {mapping[last]}')
        mapping[last] = (
            [part for part in value[1:-1].split(",") if part]
            if value.startswith("[")
            else _plain(value)
        )
    return document


def _mapping(text: str) -> dict[str, object]:
    """Return a mode that is written as a mapping. Raises BadParameter."""
    from kubenetlab.api.text.documents import read_documents

    if not text.rstrip().endswith("}"):
        raise typer.BadParameter(f"{text}: expected one mapping, such as {_EXAMPLE}")
    documents, problems = read_documents("", text.encode())
    if problems:
        raise typer.BadParameter(f"{text}: {problems[0].message}")
    value = documents[0].value
    if len(documents) != 1 or not isinstance(value, dict):
        raise typer.BadParameter(f"{text}: expected one mapping, such as {_EXAMPLE}")
    if not isinstance(value.get("type"), str):
        raise typer.BadParameter(f"{text}: expected the field type, such as {_EXAMPLE}")
    return dict(value)


def _parts(text: str) -> Iterator[str]:
    """Yield the parts of text between commas outside of brackets and braces."""
    depth = start = 0
    for index, character in enumerate(text):
        depth = max(0, depth + (character in "[{") - (character in "]}"))
        if character == "," and not depth:
            yield text[start:index]
            start = index + 1
    yield text[start:]


def _plain(value: str) -> object:
    is_number = value.removeprefix("-").isdecimal()
    return {"true": True, "false": False}.get(value, int(value) if is_number else value)


def format_mode_option(name: str, value: object) -> str:
    """Return an option of a mode as on the command line: the inverse of `mode`."""
    if isinstance(value, Mapping):
        return ",".join(format_mode_option(f"{name}.{key}", inner) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return f"{name}=[{','.join(map(str, value))}]"
    return f"{name}={str(value).lower() if isinstance(value, bool) else value}"


def split_modes(texts: Iterable[str]) -> Iterator[str]:
    """Yield each mode with its options, as `--cni` of `up` has it.

    A part without an equals sign begins a new mode, and so does a mapping. Commas in brackets and
    braces separate nothing.
    """
    for text in texts:
        mode = ""
        for part in _parts(text):
            if mode and ("=" not in part or part.lstrip().startswith("{")):
                yield mode
                mode = ""
            mode = f"{mode},{part}" if mode else part
        yield mode
