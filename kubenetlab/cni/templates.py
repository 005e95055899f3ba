"""Values of the node in a configuration list.

A plain list is the same file on every node, but each node has pod ranges of its own. Runtimes and
plugins solve this in three ways, all supported here:

- a template with `{{.PodCIDR}}`, `{{range … .PodCIDRRanges}}` and `{{range … .Routes}}`, as
  containerd's `conf_template`;
- `"subnet": "usePodCidr"` (IPv6: `usePodCidrIPv6`) for host-local, as Calico's plugin;
- the capability `ipRanges`, as the kubelet did for kubenet (see capabilities.py).

Source: containerd docs/cri/config.md and internal/cri/server/service_linux.go (cniConfigTemplate);
projectcalico/calico cni-plugin/pkg/ipamplugin.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from kubenetlab.api.json_types import JsonValue

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_RANGE = re.compile(r"range\s+(?:(\$\w+)\s*,\s*)?(?:(\$\w+)\s*:=\s*)?(\.\w+)")
_USE_POD_CIDR: Final = {"usepodcidr": 4, "usepodcidripv6": 6}


class TemplateError(ValueError):
    """A template cannot be rendered; the message is for users."""


class NodeValues(Struct, frozen=True):
    """Values of a node in templates."""

    pod_cidrs: tuple[str, ...]
    """Ranges of pod addresses, one per IP family, the primary family first."""

    @property
    def fields(self) -> Mapping[str, str | tuple[str, ...]]:
        """Fields by the names that containerd gives them."""
        routes = {6 if ":" in cidr else 4: None for cidr in self.pod_cidrs}
        return {
            ".PodCIDR": self.pod_cidrs[0] if self.pod_cidrs else "",
            ".PodCIDRRanges": self.pod_cidrs,
            ".Routes": tuple("::/0" if version == 6 else "0.0.0.0/0" for version in routes),
        }


_SAMPLE_CIDRS: Final = {4: "10.244.0.0/24", 6: "fd00:10:244::/64"}
"""IP version → pod range of an imaginary node."""
_FAMILIES: Final = ((4, 6), (4,), (6,))
"""IP versions of clusters for which a list may be written."""


def render(configuration: JsonValue, node: NodeValues) -> JsonValue:
    """Return a configuration with the values of a node.

    configuration: JSON text, which may be a template, or a document whose texts may be templates.
    Raises TemplateError for a template that is not understood, and for text that is not JSON.
    """
    if isinstance(configuration, str):
        text = render_text(configuration, node)
        try:
            document = json.loads(text)
        except ValueError as error:
            raise TemplateError(f"expected JSON: {error}") from None
    else:
        document = _with_texts(configuration, node)
    return _with_pod_cidrs(document, node)


def uses_pod_cidr(configuration: JsonValue) -> bool:
    """Return True if a configuration depends on the pod range of the node."""
    text = configuration if isinstance(configuration, str) else json.dumps(configuration)
    return (
        ".PodCIDR" in "".join(_ACTION.findall(text))
        or any(f'"{word}"' in text.lower() for word in _USE_POD_CIDR)
        or re.search(r'"ipRanges"\s*:\s*true', text) is not None
    )


def check(configuration: JsonValue, versions: Sequence[int] = ()) -> str:
    """Return why a configuration cannot be rendered, or an empty text.

    versions: IP versions of the cluster, the primary one first. Without them, a configuration is
    right if it can be rendered for a cluster of some versions.
    """
    try:
        sample(configuration, versions)
    except TemplateError as error:
        return str(error)
    return ""


def sample(configuration: JsonValue, versions: Sequence[int] = ()) -> JsonValue:
    """Return a configuration with the values of an imaginary node, for checks.

    versions: as in `check`. Raises TemplateError.
    """
    errors = []
    for each in (versions,) if versions else _FAMILIES:
        try:
            return render(configuration, NodeValues(tuple(_SAMPLE_CIDRS[one] for one in each)))
        except TemplateError as error:
            errors.append(error)
    raise errors[0]


def render_text(text: str, node: NodeValues) -> str:
    """Return a template's text with the values of a node.

    Of Go's templates: fields, variables, `range`, `if` on a variable or field, `else`, `end`.
    """
    return _rendered(tuple(_tokens(text)), dict(node.fields))


class _Token(Struct, frozen=True):
    text: str
    is_action: bool = False

    @property
    def opens_block(self) -> bool:
        return self.is_action and self.text.startswith(("range ", "if "))


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    for match in _ACTION.finditer(text):
        yield _Token(text[position : match.start()])
        yield _Token(match[1], is_action=True)
        position = match.end()
    yield _Token(text[position:])


_Value = str | tuple[str, ...] | int
_Values = dict[str, _Value]


def _rendered(tokens: Sequence[_Token], values: _Values) -> str:
    """Return the text of some tokens, in which every block is complete."""
    parts: list[str] = []
    index = 0
    while index < len(tokens):
        token = tokens[index]
        if not token.is_action:
            parts.append(token.text)
        elif token.opens_block:
            middle, end = _bounds(tokens, index)
            first, other = tokens[index + 1 : middle], tokens[middle + 1 : end]
            rounds = list(_rounds(token.text, values))
            parts += [_rendered(first, each) for each in rounds] or [_rendered(other, values)]
            index = end
        elif token.text in ("end", "else"):
            raise TemplateError(f"the template has {{{{{token.text}}}}} without a beginning")
        else:
            value = _value(token.text, values)
            parts.append(f"[{' '.join(value)}]" if isinstance(value, tuple) else str(value))
        index += 1
    return "".join(parts)


def _bounds(tokens: Sequence[_Token], start: int) -> tuple[int, int]:
    """Return the indexes of `else` (or else of `end`) and `end` of the block that starts."""
    depth, middle = 0, None
    for index in range(start, len(tokens)):
        token = tokens[index]
        if token.opens_block:
            depth += 1
        elif token.is_action and token.text == "else" and depth == 1:
            middle = index
        elif token.is_action and token.text == "end":
            depth -= 1
            if depth == 0:
                return index if middle is None else middle, index
    raise TemplateError(f"the template has {{{{{tokens[start].text}}}}} without {{{{end}}}}")


def _rounds(word: str, values: _Values) -> Iterator[_Values]:
    """Yield the values of each round of `range`, or of the only one of an `if` that holds."""
    if word.startswith("if "):
        if _value(word[3:].strip(), values):
            yield values
        return
    match = _RANGE.fullmatch(word)
    if match is None:
        raise TemplateError(f"the template's {{{{{word}}}}} is not understood")
    index_name, item_name, field = match.groups()
    items = _value(field, values)
    if not isinstance(items, tuple):
        raise TemplateError(f"the template's {field} is not a list")
    for index, item in enumerate(items):
        names: _Values = {".": item}
        if index_name:
            names[index_name] = index
        if item_name:
            names[item_name] = item
        yield values | names


def _value(name: str, values: _Values) -> _Value:
    try:
        return values[name]
    except KeyError:
        known = ", ".join(name for name in values if len(name) > 1)
        message = f"the template's {{{{{name}}}}} is not known; known: {known}"
        raise TemplateError(message) from None


def _with_texts(value: JsonValue, node: NodeValues) -> JsonValue:
    """Return a document with each of its texts rendered."""
    if isinstance(value, str):
        return render_text(value, node) if "{{" in value else value
    if isinstance(value, Mapping):
        return {key: _with_texts(item, node) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_with_texts(item, node) for item in value]
    return value


def _with_pod_cidrs(value: JsonValue, node: NodeValues) -> JsonValue:
    """Return a document with the node's ranges in place of `usePodCidr`."""
    if isinstance(value, str) and (version := _USE_POD_CIDR.get(value.lower())):
        cidrs = (cidr for cidr in node.pod_cidrs if (":" in cidr) == (version == 6))
        cidr = next(cidrs, None)
        if cidr is None:
            raise TemplateError(f"{value}: the node has no IPv{version} range of pod addresses")
        return cidr
    if isinstance(value, dict):
        return {key: _with_pod_cidrs(item, node) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_pod_cidrs(item, node) for item in value]
    return value
