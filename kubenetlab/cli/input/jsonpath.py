"""kubectl's JSONPath templates: `{.items[*].metadata.name}`, `{range …}{end}`, quoted text; and the fields of --sort-by.

Paths are rewritten to RFC 9535, by which a library finds the values: kubectl leaves out the `$`, writes a dot in a name as `\\.`, and takes
a text in single quotes as a path of names: `['metadata.name', 'status.phase']`.
Source: kubernetes.io/docs/reference/kubectl/jsonpath.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from msgspec import Struct

from kubenetlab.errors import UsageError

_ESCAPED_NAME: Final = re.compile(
    r"\.((?:[^\\\s.\[\](){}=!<>&|,'\"*]|\\.)*\\.(?:[^\\\s.\[\](){}=!<>&|,'\"*]|\\.)*)"
)
"""A name after a dot with at least one escaped character."""
_QUOTED: Final = r"'(?:[^'\\]|\\.)*'"
_NAMES: Final = re.compile(rf"\[\s*({_QUOTED}(?:\s*,\s*{_QUOTED})*)\s*\]")
"""Names in brackets and single quotes, one or several."""
_PART: Final = re.compile(r"((?:[^.\\]|\\.)+)")
"""A name of a path in quotes, up to a dot that is not escaped."""
_TOKEN: Final = re.compile(r"\{((?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^{}'\"])*)\}|([^{}]+)")


class _Text(Struct, frozen=True):
    text: str


class _Path(Struct, frozen=True):
    paths: tuple[str, ...]


class _Range(Struct, frozen=True):
    """What is between `{range PATH}` and `{end}`, once for each value."""

    paths: tuple[str, ...]
    parts: tuple[_Text | _Path | _Range, ...]


_Part = _Text | _Path | _Range


class JsonPathTemplate(Struct, frozen=True):
    """A template, ready to be filled."""

    parts: tuple[_Part, ...]

    def fill(self, document: Any) -> str:
        """Return the template with the values of a document; a field that is not there gives nothing."""
        return "".join(_filled(self.parts, document))


def parse(text: str) -> JsonPathTemplate:
    """Read a template; a path alone may stand without braces. Raises UsageError for what cannot be read."""
    tokens = list(_tokens(text if "{" in text else f"{{{text}}}", text))
    parts, rest = _parts(tokens, text)
    if rest:
        raise UsageError(f"jsonpath {text}: {{end}} without {{range …}}")
    return JsonPathTemplate(tuple(parts))


def values(path: str, document: Any) -> list[Any]:
    """Return what a path of kubectl's finds in a document, as for --sort-by. Raises UsageError."""
    return _find(
        _standard(path.strip().removeprefix("{").removesuffix("}").strip(), path), document
    )


def _tokens(template: str, text: str) -> Iterator[tuple[bool, str]]:
    """Yield (True, expression) for what is in braces, (False, text) for what is not."""
    at = 0
    while at < len(template):
        found = _TOKEN.match(template, at)
        if found is None:
            raise UsageError(f"jsonpath {text}: a brace or a quote is not closed: {template[at:]}")
        yield (True, found[1].strip()) if found[1] is not None else (False, found[2])
        at = found.end()


def _parts(
    tokens: list[tuple[bool, str]], text: str, *, in_range: bool = False
) -> tuple[list[_Part], list[tuple[bool, str]]]:
    """Return the parts up to the end, or to `{end}`, and the tokens that are left."""
    parts: list[_Part] = []
    while tokens:
        (is_expression, word), *tokens = tokens
        if not is_expression:
            parts.append(_Text(word))
        elif word == "end":
            return parts, tokens if in_range else [(True, word), *tokens]
        elif word.startswith("range ") or word == "range":
            paths = _standard(word.removeprefix("range").strip(), text)
            inner, tokens = _parts(tokens, text, in_range=True)
            parts.append(_Range(paths, tuple(inner)))
        elif word[:1] in ("'", '"'):
            parts.append(_Text(_unquoted(word, text)))
        else:
            parts.append(_Path(_standard(word, text)))
    if in_range:
        raise UsageError(f"jsonpath {text}: {{range …}} without {{end}}")
    return parts, []


def _unquoted(word: str, text: str) -> str:
    try:
        return str(
            json.loads(word if word[0] == '"' else '"' + word[1:-1].replace('"', '\\"') + '"')
        )
    except ValueError:
        raise UsageError(f"jsonpath {text}: cannot read the text {word}") from None


def _standard(path: str, text: str) -> tuple[str, ...]:
    """Return a path of kubectl's in RFC 9535's notation, checked; several for several names in brackets, in their order."""
    import jsonpath

    named = _ESCAPED_NAME.sub(
        lambda found: "[" + json.dumps(re.sub(r"\\(.)", r"\1", found[1])) + "]", path
    )
    standard = named if named.startswith("$") else "$" + named.removeprefix("@")
    if standard[1:2] not in ("", ".", "["):
        standard = f"$.{standard[1:]}"
    paths = ("$",) if standard == "$." else tuple(_expanded(standard))
    try:
        for one in paths:
            jsonpath.compile(one)
    except jsonpath.JSONPathError as error:
        raise UsageError(f"jsonpath {text}: {path}: {str(error).splitlines()[0]}") from None
    return paths


def _expanded(path: str) -> Iterator[str]:
    """Yield one path for each of the names in brackets: kubectl finds all values of the first before those of the second."""
    found = _NAMES.search(path)
    if found is None:
        yield path
        return
    for rest in _expanded(path[found.end() :]):
        for name in re.findall(_QUOTED, found[1]):
            names = [re.sub(r"\\(.)", r"\1", part) for part in _PART.findall(name[1:-1])]
            yield path[: found.start()] + "".join(f"[{json.dumps(part)}]" for part in names) + rest


def _find(paths: Sequence[str], document: Any) -> list[Any]:
    import jsonpath

    if not isinstance(document, dict | list):
        return [document for path in paths if path == "$"]
    return [value for path in paths for value in jsonpath.findall(path, document)]


def _filled(parts: Sequence[_Part], document: Any) -> Iterator[str]:
    for part in parts:
        if isinstance(part, _Text):
            yield part.text
        elif isinstance(part, _Path):
            yield " ".join(_shown(value) for value in _find(part.paths, document))
        else:
            for value in _find(part.paths, document):
                yield from _filled(part.parts, value)


def _shown(value: Any) -> str:
    """Return a value as kubectl prints it: text as it is, the rest as JSON."""
    return (
        value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    )


def sort_key(path: str, document: Any) -> tuple[int, float, str]:
    """Return what objects are sorted by: numbers by value, times and text as text; objects without the field come first."""
    found = values(path, document)
    if not found:
        return (0, 0.0, "")
    value = found[0]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (1, float(value), "") if is_number else (1, 0.0, _shown(value))
