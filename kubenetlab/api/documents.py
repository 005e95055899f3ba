"""Text → documents: YAML or JSON as kubectl reads it, each with the place it came from.

A file is split at `---` lines first, so that a mistake in one document does not hide those in the next. Scalars are resolved
as Kubernetes' YAML does: no timestamps, no base-60 numbers, exponents without a dot, octal 0644. What could hurt is bounded:
size, depth, and the size to which aliases expand.
Source of the rules: sigs.k8s.io/yaml (goyaml.v2), k8s.io/apimachinery pkg/util/yaml.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import yaml
from msgspec import Struct

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
        return yaml.compose(text.replace("\t", " "), Loader=_Loader)
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
                parse_int=_bounded,
                parse_float=_finite,
                parse_constant=_finite,
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
    loader = _Loader(text)
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
        for event in yaml.parse(text, Loader=_Loader):
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


class _Loader(yaml.CSafeLoader):
    """PyYAML's C loader with Kubernetes' scalars and an eye on duplicate keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise _unfitting(node)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a plain word", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key "{key.value}" stands here a second time', key.start_mark
                )
            seen.add(key.value)
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=True) for key, value in node.value}


_TAG = "tag:yaml.org,2002:"
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in (_TAG + "timestamp", _TAG + "int", _TAG + "float")
    ]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _TAG + "int",
    re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0[0-7_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|0b[01_]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    _TAG + "float",
    re.compile(
        r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def _scalar(read: Callable[[str], Any]) -> Callable[[Any, Any], Any]:
    """The constructor of a kind of scalar: people may write any tag before any value."""

    def construct(_: Any, node: Any) -> Any:
        try:
            return read(node.value)
        except (AttributeError, KeyError, TypeError, ValueError):  # thousands of digits, too
            raise _unfitting(node) from None

    return construct


def _integer(text: str) -> int | float:
    digits = text.replace("_", "")
    unsigned = digits.lstrip("+-")
    if len(unsigned) > 1 and unsigned[0] == "0" and unsigned[1] in "01234567":
        digits = digits.replace("0", "0o", 1)
    return _bounded(digits, 0)


def _bounded(digits: str, base: int = 10) -> int | float:
    """Return a number; one beyond 64 bits as a float, as Kubernetes does. Raises ValueError for one beyond any float."""
    value = int(digits, base)
    return value if -(2**63) <= value < 2**64 else _finite(digits if base == 10 else str(value))


def _finite(text: str) -> float:
    """A float that JSON has: neither infinite nor NaN. Raises ValueError."""
    value = float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _unfitting(node: Any) -> yaml.constructor.ConstructorError:
    """The error for a value that is not what its tag says, or that JSON, and so Kubernetes, cannot hold."""
    shown = (
        f'"{node.value[:20]}{"…" * (len(node.value) > 20)}"'
        if isinstance(node, yaml.ScalarNode)
        else f"this {node.id}"
    )
    wanted = _NOUNS.get(node.tag)
    message = (
        f"{shown} is no {wanted}"
        if wanted
        else f"the tag {node.tag.replace(_TAG, '!!')} is not for Kubernetes manifests"
    )
    return yaml.constructor.ConstructorError(None, None, message, node.start_mark)


def _refused(_: Any, node: Any) -> Any:
    raise _unfitting(node)


_NOUNS = {
    _TAG + "int": "number",
    _TAG + "float": "number",
    _TAG + "bool": "boolean",
    _TAG + "map": "mapping",
    _TAG + "seq": "list",
}
_Loader.yaml_constructors = {
    tag: construct
    for tag, construct in yaml.CSafeLoader.yaml_constructors.items()
    if tag not in (_TAG + "binary", _TAG + "omap", _TAG + "pairs", _TAG + "set", _TAG + "timestamp")
}
_Loader.add_constructor(_TAG + "int", _scalar(_integer))
_Loader.add_constructor(_TAG + "float", _scalar(_finite))
_Loader.add_constructor(
    _TAG + "bool", _scalar(lambda text: yaml.CSafeLoader.bool_values[text.lower()])
)
_Loader.add_constructor(None, _refused)


def _child(node: Any, step: str | int) -> tuple[int, Any] | None:
    """(first character, value) of one step down."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == step:
                return key.start_mark.index, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark.index, node.value[step]
    return None
