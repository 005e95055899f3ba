"""Text → documents: YAML or JSON as kubectl reads it, each with the place it came from.

A file is split at `---` lines first, so that a mistake in one document does not hide those in the next. Scalars are resolved
as Kubernetes' YAML does: no timestamps, no base-60 numbers, exponents without a dot, octal 0644. What could hurt is bounded:
size, depth, and the size to which aliases expand.
Source of the rules: sigs.k8s.io/yaml (goyaml.v2), k8s.io/apimachinery pkg/util/yaml.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import yaml
from msgspec import Struct

from kubenetlab.api.kubernetes_yaml import KubernetesLoader, bounded_integer, finite_float
from kubenetlab.errors import Problem

MAX_BYTES = 16_000_000
"""The largest file that is read. Kubernetes itself refuses objects above 1.5 MiB."""
MAX_DEPTH = 100
MAX_NODES = 200_000
"""To how many values one document may expand when its aliases are followed."""
MAX_SHOWN = 200
"""Characters of a line that a message shows."""

Path = tuple[str | int, ...]

_CONTENT = re.compile(r"^(?!---)[ \t]*[^\s#]", re.MULTILINE)
"""Matches the beginning of a line that is not blank, a comment or a separator."""
_INNER_BOM = re.compile(r"(?<=\n)\ufeff")
"""Byte order mark at the beginning of a line: of a file that was appended to another one."""
_BLANKS = re.compile(r"\s*")
_SEPARATOR = re.compile(r"^---(?=\s|$)", re.MULTILINE)


class Document(Struct, frozen=True):
    """One YAML document: its value, and where to look when something in it is wrong."""

    file: str
    first_line: int
    text: str
    value: Any

    def line_of(self, path: Path) -> int:
        """The line of a field, or of the nearest field above it that is there."""
        if not path and (first := _CONTENT.search(self.text)):
            return self.first_line + _line(self.text, first.start())
        node = _composed(self.text)
        if node is None:
            return self.first_line
        start: int = node.start_mark.index
        for step in path:
            entry = _child(node, step)
            if entry is None:
                break
            start, node = entry
        return self.first_line + _line(self.text, start)


def read_documents(file: str, data: bytes) -> tuple[list[Document], list[Problem]]:
    """All documents of one file that can be read, and what is wrong with the others."""
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


@lru_cache(maxsize=1)  # a document with many mistakes is asked about again and again
def _composed(text: str) -> Any:
    """A document with the place of everything in it; None when it cannot be read."""
    try:
        return yaml.compose(text.replace("\t", " "), Loader=KubernetesLoader)
    except yaml.YAMLError:
        return None


class _ReadError(Exception):
    """What is wrong, and at which character."""

    def __init__(self, message: str, index: int = 0, hints: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message, self.index, self.hints = message, index, hints


def _line(text: str, index: int) -> int:
    """In which line a character is, as editors count: to YAML more than the line feed ends a line."""
    return text.count("\n", 0, index)


def _split(text: str) -> Iterator[tuple[int, str]]:
    """(number of the first line, text) of each document."""
    starts = _json_starts(text) or [0, *(match.start() for match in _SEPARATOR.finditer(text))]
    line = 1
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        part = text[start:end]
        yield line, part
        line += part.count("\n")


def _json_starts(text: str) -> list[int]:
    """Return where the values of a stream of JSON objects begin, as `jq -c` prints one; nothing for any other text."""
    decoder, starts, at = json.JSONDecoder(), [], 0
    try:
        while (at := _BLANKS.match(text, at).end()) < len(text):  # type: ignore[union-attr]
            if text[at] != "{":
                return []
            starts.append(at)
            _, at = decoder.raw_decode(text, at)
    except (ValueError, RecursionError):
        return []
    return [0, *starts[1:]] if len(starts) > 1 else []


def _parse(text: str) -> Any:
    if text.lstrip().startswith(("{", "[")):
        try:
            value = json.loads(
                text,
                object_pairs_hook=_unique,
                parse_int=bounded_integer,
                parse_float=finite_float,
                parse_constant=finite_float,
            )
            if is_deeper(value, MAX_DEPTH):
                raise _ReadError(f"nested deeper than {MAX_DEPTH} levels")
            if "\\u" in text:
                json.dumps(
                    value, ensure_ascii=False
                ).encode()  # half a surrogate pair is no character
            return value
        except RecursionError:
            raise _ReadError(f"nested deeper than {MAX_DEPTH} levels") from None
        except ValueError:
            pass  # flow-style YAML also begins like this; its own error is the better one
    _check_depth(text)
    loader = KubernetesLoader(text)
    try:
        if not loader.check_node():
            return None
        node: Any = loader.get_node()
        if "*" in text and "&" in text:
            _expanded_size(node, {})
        value = loader.construct_document(node)
        if loader.check_node():
            second: Any = loader.get_node()
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


def is_deeper(value: Any, levels: int) -> bool:
    """Return True for mappings and lists within one another of more than so many levels."""
    level: list[Any] = [value]
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


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("duplicate key")  # read again as YAML, which says where
    return value


def _check_depth(text: str) -> None:
    """Refuses what is nested too deeply, before the parser (which recurses in C) sees it."""
    brackets = text.count("[") + text.count("{")
    indent = max((len(match) for match in re.findall(r"^[ \-?]+", text, re.MULTILINE)), default=0)
    if brackets + indent < MAX_DEPTH:
        return
    depth = 0
    event: Any
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
        pass  # said in full by the parse that follows


def _expanded_size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for when its aliases are followed."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in known:
        if known[id(node)] < 0:
            raise _ReadError("an alias refers to the value that contains it", node.start_mark.index)
        return known[id(node)]
    known[id(node)] = -1
    children: Sequence[yaml.Node] = (
        [part for pair in node.value for part in pair]
        if isinstance(node, yaml.MappingNode)
        else node.value
    )
    size = 1 + sum(_expanded_size(child, known) for child in children)
    if size > MAX_NODES:
        raise _ReadError(
            f"its aliases expand to more than {MAX_NODES} values", node.start_mark.index
        )
    known[id(node)] = size
    return size


_SYNTAX_HINTS: Final = {
    **dict.fromkeys(
        ("did not find expected key", "did not find expected '-' indicator"),
        "check the indentation of this line and of the one above it",
    ),
    "mapping values are not allowed in this context": "check the indentation here and above, and the space behind each `:`; "
    "a value that contains `: ` needs quotes",
    "found character that cannot start any token": "a value that begins with this character needs quotes",
}
"""What to do about messages of libyaml that do not name the usual cause."""


def _syntax_error(text: str, error: yaml.MarkedYAMLError) -> _ReadError:
    mark = error.problem_mark or error.context_mark
    index = mark.index if mark else 0
    shown = text.split("\n")[_line(text, index)]
    if "\t" in shown[: len(shown) - len(shown.lstrip())]:
        return _ReadError(
            "a tab in the indentation; YAML allows only spaces there",
            index,
            (shown.replace("\t", "→"),),
        )
    hints = (
        _shortened(shown.strip()) if shown.strip() else "",
        _SYNTAX_HINTS.get(error.problem or "", ""),
    )
    return _ReadError(error.problem or str(error), index, tuple(hint for hint in hints if hint))


def _shortened(line: str) -> str:
    return line if len(line) <= MAX_SHOWN else f"{line[:MAX_SHOWN]}…"


def _child(node: Any, step: str | int) -> tuple[int, Any] | None:
    """(first character, value) of one step down."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == step:
                return key.start_mark.index, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark.index, node.value[step]
    return None
