r"""kubectl's JSONPath templates (`{.items[*].metadata.name}`, `{range …}{end}`) and sort paths.

Paths are rewritten to RFC 9535, which the library `jsonpath` evaluates. kubectl omits the `$`,
writes a dot in a name as `\.`, and reads a quoted text in brackets as a path of names:
`['metadata.name', 'status.phase']`.
Source: kubernetes.io/docs/reference/kubectl/jsonpath.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from kubenetlab.api.json_types import JsonValue
from kubenetlab.errors import UsageError

_ESCAPED_NAME: Final = re.compile(
    r"\.((?:[^\\\s.\[\](){}=!<>&|,'\"*]|\\.)*\\.(?:[^\\\s.\[\](){}=!<>&|,'\"*]|\\.)*)"
)
"""A dot and a name with at least one escaped character."""
_QUOTED: Final = r"'(?:[^'\\]|\\.)*'"
_NAMES: Final = re.compile(rf"\[\s*({_QUOTED}(?:\s*,\s*{_QUOTED})*)\s*\]")
"""One or more names in single quotes, in brackets."""
_PART: Final = re.compile(r"((?:[^.\\]|\\.)+)")
"""One name of a quoted path, up to a dot that is not escaped."""
_TOKEN: Final = re.compile(r"\{((?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^{}'\"])*)\}|([^{}]+)")


class _Text(Struct, frozen=True):
    text: str


class _Path(Struct, frozen=True):
    paths: tuple[str, ...]


class _Range(Struct, frozen=True):
    """Parts between `{range PATH}` and `{end}`, filled once for each value of the path."""

    paths: tuple[str, ...]
    parts: tuple[_Text | _Path | _Range, ...]


_Part = _Text | _Path | _Range


class JsonPathTemplate(Struct, frozen=True):
    """A parsed template."""

    parts: tuple[_Part, ...]

    def fill(self, document: object) -> str:
        """Return the template filled with values of a document; a missing field gives nothing."""
        return "".join(_fill(self.parts, document))


def parse(text: str) -> JsonPathTemplate:
    """Parse a template; braces around a single path may be omitted. Raises UsageError."""
    tokens = list(_tokens(text if "{" in text else f"{{{text}}}", text))
    parts, rest = _parts(tokens, text)
    if rest:
        raise UsageError(f"jsonpath {text}: {{end}} without {{range …}}")
    return JsonPathTemplate(tuple(parts))


def values(path: str, document: object) -> list[JsonValue]:
    """Return the values that a path of --sort-by finds in a document. Raises UsageError."""
    return _find(
        _to_rfc9535(path.strip().removeprefix("{").removesuffix("}").strip(), path), document
    )


def _tokens(template: str, text: str) -> Iterator[tuple[bool, str]]:
    """Yield (True, expression) for parts in braces, (False, text) for the others.

    text: the template as given, for error messages.
    """
    position = 0
    while position < len(template):
        match = _TOKEN.match(template, position)
        if match is None:
            raise UsageError(
                f"jsonpath {text}: a brace or a quote is not closed: {template[position:]}"
            )
        yield (True, match[1].strip()) if match[1] is not None else (False, match[2])
        position = match.end()


def _parts(
    tokens: list[tuple[bool, str]], text: str, *, in_range: bool = False
) -> tuple[list[_Part], list[tuple[bool, str]]]:
    """Return the parts up to the end or to `{end}`, and the remaining tokens."""
    parts: list[_Part] = []
    while tokens:
        (is_expression, word), *tokens = tokens
        if not is_expression:
            parts.append(_Text(word))
        elif word == "end":
            return parts, tokens if in_range else [(True, word), *tokens]
        elif word.startswith("range ") or word == "range":
            paths = _to_rfc9535(word.removeprefix("range").strip(), text)
            inner, tokens = _parts(tokens, text, in_range=True)
            parts.append(_Range(paths, tuple(inner)))
        elif word[:1] in ("'", '"'):
            parts.append(_Text(_unquoted(word, text)))
        else:
            parts.append(_Path(_to_rfc9535(word, text)))
    if in_range:
        raise UsageError(f"jsonpath {text}: {{range …}} without {{end}}")
    return parts, []


def _unquoted(word: str, text: str) -> str:
    try:
        return str(
            json.loads(word if word[0] == '"' else '"' + word[1:-1].replace('"', '\\"') + '"')
        )
    except ValueError:
        raise UsageError(f"jsonpath {text}: invalid quoted text {word}") from None


def _to_rfc9535(path: str, text: str) -> tuple[str, ...]:
    """Rewrite a path of kubectl to RFC 9535 and check it. Raises UsageError.

    A path with several names in brackets gives one path per name, in their order.
    """
    import jsonpath

    unescaped = _ESCAPED_NAME.sub(
        lambda match: "[" + json.dumps(re.sub(r"\\(.)", r"\1", match[1])) + "]", path
    )
    standard = unescaped if unescaped.startswith("$") else "$" + unescaped.removeprefix("@")
    if standard[1:2] not in ("", ".", "["):
        standard = f"$.{standard[1:]}"
    paths = ("$",) if standard == "$." else tuple(_expanded(standard))
    try:
        for standard_path in paths:
            jsonpath.compile(standard_path)
    except jsonpath.JSONPathError as error:
        raise UsageError(f"jsonpath {text}: {path}: {str(error).splitlines()[0]}") from None
    return paths


def _expanded(path: str) -> Iterator[str]:
    """Yield one path per name in brackets; kubectl prints all values of a name before the next."""
    match = _NAMES.search(path)
    if match is None:
        yield path
        return
    for rest in _expanded(path[match.end() :]):
        for name in re.findall(_QUOTED, match[1]):
            names = [re.sub(r"\\(.)", r"\1", part) for part in _PART.findall(name[1:-1])]
            yield path[: match.start()] + "".join(f"[{json.dumps(part)}]" for part in names) + rest


def _find(paths: Sequence[str], document: object) -> list[JsonValue]:
    import jsonpath

    if not isinstance(document, dict | list):
        return [document for path in paths if path == "$"]
    return [value for path in paths for value in jsonpath.findall(path, document)]


def _fill(parts: Sequence[_Part], document: object) -> Iterator[str]:
    for part in parts:
        if isinstance(part, _Text):
            yield part.text
        elif isinstance(part, _Path):
            yield " ".join(_printed(value) for value in _find(part.paths, document))
        else:
            for value in _find(part.paths, document):
                yield from _fill(part.parts, value)


def _printed(value: object) -> str:
    """Return a value as kubectl prints it: strings as they are, other values as JSON."""
    return (
        value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    )


def sort_key(path: str, document: object) -> tuple[int, float, str]:
    """Return the sort key of a document for --sort-by.

    Numbers sort by value, strings and times as text; documents without the field come first.
    """
    matches = values(path, document)
    if not matches:
        return (0, 0.0, "")
    value = matches[0]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (1, float(value), "") if is_number else (1, 0.0, _printed(value))
