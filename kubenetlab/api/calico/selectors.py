"""Calico's label selectors, such as `zone == "a" && !has(legacy)`.

Source: projectcalico/calico libcalico-go/lib/selector/parser (3.30), documentation of the field
`selector` of its network policies.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from kubenetlab.api.meta import Labels

Selector = Callable[[Labels], bool]
"""Function that returns True for the labels that meet a selector."""

_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<string>"[^"]*"|'[^']*')
      | (?P<operator>&&|\|\||==|!=|!|\(|\)|\{|\}|,)
      | (?P<word>[A-Za-z0-9_./-]+)
    )""",
    re.VERBOSE,
)
_EXAMPLES: Final = 'examples: all(), zone == "a", has(disk) && !(disk in {"hdd", "tape"})'


@lru_cache(maxsize=256)
def parse_selector(text: str) -> Selector:
    """Parse a selector; an empty one matches all objects.

    Raises ValueError, which names the part that is wrong.
    """
    tokens = _tokens(text)
    if not tokens:
        return lambda labels: True
    parser = _Parser(text, tokens)
    selector = parser.any_of()
    if (rest := parser.peek()) is not None:
        raise parser.error(rest)
    return selector


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f'"{text[position:].strip()}" is not part of a selector; {_EXAMPLES}')
        tokens.append(match.group().strip())
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent over the tokens of one selector."""

    def __init__(self, text: str, tokens: list[str]) -> None:
        self._text = text
        self._tokens = tokens
        self._position = 0

    def peek(self) -> str | None:
        """Return the next token; None at the end."""
        return self._tokens[self._position] if self._position < len(self._tokens) else None

    def error(self, token: str | None) -> ValueError:
        """Return the error about an unexpected token; None for the end of the text."""
        place = f'"{token}"' if token is not None else "the end"
        return ValueError(f"unexpected {place} in the selector {self._text!r}; {_EXAMPLES}")

    def any_of(self) -> Selector:
        """Parse terms that are separated by ||."""
        terms = [self._all_of()]
        while self._skip("||"):
            terms.append(self._all_of())
        return lambda labels: any(term(labels) for term in terms)

    def _all_of(self) -> Selector:
        terms = [self._term()]
        while self._skip("&&"):
            terms.append(self._term())
        return lambda labels: all(term(labels) for term in terms)

    def _term(self) -> Selector:
        if self._skip("!"):
            negated = self._term()
            return lambda labels: not negated(labels)
        if self._skip("("):
            inner = self.any_of()
            self._expect(")")
            return inner
        word = self._word()
        if word in ("all", "global") and self._skip("("):
            self._expect(")")
            return lambda labels: True
        if word == "has" and self._skip("("):
            label = self._word()
            self._expect(")")
            return lambda labels: label in labels
        return self._comparison(word)

    def _comparison(self, label: str) -> Selector:
        """Parse the operator and the value after a label."""
        operator = self._next()
        match operator:
            case "==":
                value = self._string()
                return lambda labels: labels.get(label) == value
            case "!=":
                value = self._string()
                return lambda labels: labels.get(label) != value
            case "in":
                values = self._set()
                return lambda labels: labels.get(label) in values
            case "not":
                self._expect("in")
                values = self._set()
                return lambda labels: labels.get(label) not in values
            case "contains":
                value = self._string()
                return lambda labels: label in labels and value in labels[label]
            case "starts":
                self._expect("with")
                value = self._string()
                return lambda labels: label in labels and labels[label].startswith(value)
            case "ends":
                self._expect("with")
                value = self._string()
                return lambda labels: label in labels and labels[label].endswith(value)
        raise self.error(operator)

    def _set(self) -> frozenset[str]:
        self._expect("{")
        values = [self._string()]
        while self._skip(","):
            values.append(self._string())
        self._expect("}")
        return frozenset(values)

    def _string(self) -> str:
        token = self._next()
        if token is None or token[0] not in "\"'":
            raise self.error(token)
        return token[1:-1]

    def _word(self) -> str:
        token = self._next()
        if token is None or not re.fullmatch(r"[A-Za-z0-9_./-]+", token):
            raise self.error(token)
        return token

    def _next(self) -> str | None:
        token = self.peek()
        self._position += 1
        return token

    def _skip(self, token: str) -> bool:
        """Return True, and go on, if the next token is this one."""
        is_next = self.peek() == token
        self._position += is_next
        return is_next

    def _expect(self, token: str) -> None:
        if not self._skip(token):
            raise self.error(self.peek())
