"""Text → documents: YAML or JSON as kubectl reads it, with the origin of each document.

A file is split at `---` lines first, so that an error in one document does not hide those in the
next. Scalars are resolved as in Kubernetes' YAML. Size, depth and the expansion of aliases are
limited, because a manifest may come from an untrusted source.
Source: sigs.k8s.io/yaml (goyaml.v2), k8s.io/apimachinery pkg/util/yaml.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

import yaml
from msgspec import Struct

from kubenetlab.api.json_types import JsonObject, JsonValue
from kubenetlab.api.text.kubernetes_yaml import KubernetesLoader, bounded_integer, finite_float
from kubenetlab.errors import Problem

MAX_BYTES = 16_000_000
"""Maximum size of a file. Kubernetes itself rejects objects above 1.5 MiB."""
MAX_DEPTH = 100
"""Maximum depth of nested mappings and lists."""
MAX_NODES = 200_000
"""Maximum number of values in a document when its aliases are expanded."""
MAX_SHOWN = 200
"""Maximum number of characters of a line that a message shows."""

Path = tuple[str | int, ...]
"""Path of a field: keys of mappings and indices of lists."""

_CONTENT = re.compile(r"^(?!---)[ \t]*[^\s#]", re.MULTILINE)
"""Beginning of a line that is not blank, a comment or a separator."""
_INNER_BOM = re.compile(r"(?<=\n)\ufeff")
"""Byte order mark at the beginning of a line, from a file that was appended to another one."""
_WHITESPACE = re.compile(r"\s*")
_SEPARATOR = re.compile(r"^---(?=\s|$)", re.MULTILINE)


class Document(Struct, frozen=True):
    """YAML document: its value, and its text to find the lines of fields."""

    file: str
    """Name of the file."""
    first_line: int
    """Line of the file at which the document begins, from 1."""
    text: str
    """Text of the document."""
    value: JsonValue
    """Value of the document."""

    def line_of(self, path: Path) -> int:
        """Return the line of a field, or of the nearest existing field above it."""
        if not path and (content := _CONTENT.search(self.text)):
            return self.first_line + _line(self.text, content.start())
        node = _compose(self.text)
        if node is None:
            return self.first_line
        start: int = node.start_mark.index
        for step in path:
            child = _child(node, step)
            if child is None:
                break
            start, node = child
        return self.first_line + _line(self.text, start)


def read_documents(file: str, data: bytes) -> tuple[list[Document], list[Problem]]:
    """Return the documents of a file that can be parsed, and the problems of all others."""
    if len(data) > MAX_BYTES:
        return [], [
            Problem(
                f"too large: more than {MAX_BYTES // 1_000_000} MB",
                file=file,
                hints=("split it into several files; -f takes a folder too",),
            )
        ]
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return [], [
            Problem(
                f"not UTF-8: byte 0x{data[error.start]:02x} cannot be read",
                file=file,
                line=line,
                hints=("save the file as UTF-8",),
            )
        ]
    text = _INNER_BOM.sub("", text.replace("\r\n", "\n"))
    documents: list[Document] = []
    problems: list[Problem] = []
    for first_line, part in _split(text):
        try:
            value = _parse(part)
        except _ReadError as error:
            problems.append(
                Problem(
                    error.message,
                    file=file,
                    line=first_line + _line(part, error.index),
                    hints=error.hints,
                )
            )
        else:
            if value is not None:
                documents.append(Document(file, first_line, part, value))
    return documents, problems


@lru_cache(maxsize=1)  # line_of is called once for each problem of a document
def _compose(text: str) -> yaml.Node | None:
    """Return the root node of a document; None if it cannot be parsed."""
    try:
        return yaml.compose(text.replace("\t", " "), Loader=KubernetesLoader)
    except yaml.YAMLError:
        return None


class _ReadError(Exception):
    """Syntax error in a document.

    index: character of the document at which it was found.
    """

    def __init__(self, message: str, index: int = 0, hints: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message, self.index, self.hints = message, index, hints


def _line(text: str, index: int) -> int:
    """Return the number of line feeds before a character.

    Editors count lines like this; YAML has further line breaks.
    """
    return text.count("\n", 0, index)


def _split(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number of the first line, text) of each document."""
    starts = _json_starts(text) or [0, *(match.start() for match in _SEPARATOR.finditer(text))]
    line = 1
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        part = text[start:end]
        yield line, part
        line += part.count("\n")


def _json_starts(text: str) -> list[int]:
    """Return the start of each object in a stream of JSON objects, such as `jq -c` prints.

    Return an empty list for any other text.
    """
    decoder, starts, index = json.JSONDecoder(), [], 0
    try:
        while (space := _WHITESPACE.match(text, index)) and (index := space.end()) < len(text):
            if text[index] != "{":
                return []
            starts.append(index)
            _, index = decoder.raw_decode(text, index)
    except (ValueError, RecursionError):
        return []
    return [0, *starts[1:]] if len(starts) > 1 else []


def _parse(text: str) -> JsonValue:
    """Return the value of a document; None for an empty one. Raises _ReadError."""
    if text.lstrip().startswith(("{", "[")):
        try:
            return _parse_json(text)
        except ValueError:
            pass  # flow-style YAML also begins like this, and its error names the line
    _check_depth(text)
    loader = KubernetesLoader(text)
    try:
        if not loader.check_node() or (node := loader.get_node()) is None:
            return None
        if "*" in text and "&" in text:
            _expanded_size(node, {})
        value = loader.construct_document(node)
        if loader.check_node() and (second := loader.get_node()) is not None:
            raise _ReadError(
                "a second document begins here without a --- line", second.start_mark.index
            )
        return value
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(text, error) from None
    except yaml.reader.ReaderError as error:
        raise _ReadError(
            f"control character #x{error.character:04x} is not allowed in YAML", error.position
        ) from None
    finally:
        loader.dispose()


def _parse_json(text: str) -> JsonValue:
    """Return the value of a JSON text. Raises ValueError for any other text, and _ReadError."""
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_int=bounded_integer,
            parse_float=finite_float,
            parse_constant=finite_float,
        )
        if is_deeper(value, MAX_DEPTH):
            raise _ReadError(f"nested deeper than {MAX_DEPTH} levels")
        if "\\u" in text:
            # UnicodeEncodeError, a ValueError: half of a surrogate pair is not a character.
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except RecursionError:
        raise _ReadError(f"nested deeper than {MAX_DEPTH} levels") from None


def is_deeper(value: object, levels: int) -> bool:
    """Return True if mappings and lists are nested deeper than a number of levels."""
    level: list[object] = [value]
    for _ in range(levels):
        level = [
            item
            for outer in level
            if isinstance(outer, (dict, list))
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        level = [item for item in level if isinstance(item, (dict, list))]
        if not level:
            return False
    return True


def _unique_keys(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("duplicate key")  # the text is parsed again as YAML, which finds the line
    return value


def _check_depth(text: str) -> None:
    """Raise _ReadError for a text that is nested too deeply for the parser, which recurses in C."""
    brackets = text.count("[") + text.count("{")
    indent = max((len(match) for match in re.findall(r"^[ \-?]+", text, re.MULTILINE)), default=0)
    if brackets + indent < MAX_DEPTH:
        return
    depth = 0
    try:
        for event in yaml.parse(text, Loader=KubernetesLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    raise _ReadError(
                        f"nested deeper than {MAX_DEPTH} levels",
                        event.start_mark.index if event.start_mark else 0,
                    )
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    except yaml.YAMLError:
        pass  # reported by the parse that follows


def _expanded_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Return the number of values of a node when its aliases are expanded.

    sizes: sizes of nodes by id; -1 while a node is being counted.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in sizes:
        if sizes[id(node)] < 0:
            raise _ReadError("an alias refers to the value that contains it", node.start_mark.index)
        return sizes[id(node)]
    sizes[id(node)] = -1
    children: Sequence[yaml.Node] = (
        [part for pair in node.value for part in pair]
        if isinstance(node, yaml.MappingNode)
        else node.value
    )
    size = 1 + sum(_expanded_size(child, sizes) for child in children)
    if size > MAX_NODES:
        raise _ReadError(
            f"its aliases expand to more than {MAX_NODES} values", node.start_mark.index
        )
    sizes[id(node)] = size
    return size


_SYNTAX_HINTS: Final = {
    **dict.fromkeys(
        ("did not find expected key", "did not find expected '-' indicator"),
        "check the indentation of this line and of the one above it",
    ),
    "mapping values are not allowed in this context": (
        "check the indentation here and above, and the space behind each `:`; "
        "a value that contains `: ` needs quotes"
    ),
    "found character that cannot start any token": (
        "a value that begins with this character needs quotes"
    ),
}
"""Message of libyaml → hint at its usual cause."""


def _syntax_error(text: str, error: yaml.MarkedYAMLError) -> _ReadError:
    """Return an error of libyaml with the line of the text and a hint at the cause."""
    mark = error.problem_mark or error.context_mark
    index = mark.index if mark else 0
    line = text.split("\n")[_line(text, index)]
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return _ReadError(
            "a tab in the indentation; YAML allows only spaces there",
            index,
            (line.replace("\t", "→"),),
        )
    hints = (
        _shortened(line.strip()) if line.strip() else "",
        _SYNTAX_HINTS.get(error.problem or "", ""),
    )
    return _ReadError(error.problem or str(error), index, tuple(hint for hint in hints if hint))


def _shortened(line: str) -> str:
    return line if len(line) <= MAX_SHOWN else f"{line[:MAX_SHOWN]}…"


def _child(node: yaml.Node | None, step: str | int) -> tuple[int, yaml.Node] | None:
    """Return (first character, node) of an entry of a mapping or list; None if there is none."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == step:
                return key.start_mark.index, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark.index, node.value[step]
    return None
