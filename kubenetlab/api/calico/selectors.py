"""Calico's label selectors, such as `zone == "a" && !has(legacy)`.

A selector is parsed to a tree of expressions, which can be printed again. Tokens, precedence and
the treatment of absent labels are Calico's.

Source: projectcalico/calico libcalico-go/lib/selector/{tokenizer,parser} (3.30).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from msgspec import Struct

from kubenetlab.api.meta import Labels

MAX_LABEL: Final = 512
"""Maximum length of a label in a selector."""
MAX_DEPTH: Final = 100
"""Maximum number of parentheses around an expression."""
_LABEL: Final = re.compile(r"[A-Za-z0-9_./-]+")
_SPACE: Final = re.compile(r"[ \t]*")
_SYMBOLS: Final = ("&&", "||", "==", "!=", "!", "(", ")", "{", "}", ",")
_OPERATORS: Final = {
    re.compile(rf"{words}(?![A-Za-z0-9_./-])"): name
    for words, name in (
        ("contains", "contains"),
        ("starts[ \t]*with", "starts with"),
        ("ends[ \t]*with", "ends with"),
        ("not[ \t]*in", "not in"),
        ("in", "in"),
    )
}
"""Words between a label and its value."""
_FUNCTION: Final = re.compile(r"(has|all|global)\(")
_EXAMPLES: Final = 'examples: all(), zone == "a", has(disk) && !(disk in {"hdd", "tape"})'

Operator = Literal["==", "!=", "contains", "starts with", "ends with"]


class All(Struct, frozen=True):
    """Match of everything."""

    def matches(self, labels: Labels) -> bool:
        return True

    def __str__(self) -> str:
        return "all()"


class Global(Struct, frozen=True):
    """Match of what belongs to no namespace, in a selector of namespaces."""

    def matches(self, labels: Labels) -> bool:
        return True

    def __str__(self) -> str:
        return "global()"


class Has(Struct, frozen=True):
    """Existence of a label."""

    label: str

    def matches(self, labels: Labels) -> bool:
        return self.label in labels

    def __str__(self) -> str:
        return f"has({self.label})"


class Comparison(Struct, frozen=True):
    """Comparison of a label with a value. An absent label meets `!=` alone."""

    label: str
    operator: Operator
    value: str

    def matches(self, labels: Labels) -> bool:
        present = labels.get(self.label)
        if present is None:
            return self.operator == "!="
        match self.operator:
            case "==":
                return present == self.value
            case "!=":
                return present != self.value
            case "contains":
                return self.value in present
            case "starts with":
                return present.startswith(self.value)
            case "ends with":
                return present.endswith(self.value)

    def __str__(self) -> str:
        return f"{self.label} {self.operator} {_quoted(self.value)}"


class Membership(Struct, frozen=True):
    """Comparison of a label with a set of values. An absent label meets `not in` alone."""

    label: str
    values: tuple[str, ...]
    is_negated: bool = False

    def matches(self, labels: Labels) -> bool:
        return (labels.get(self.label) in self.values) != self.is_negated

    def __str__(self) -> str:
        operator = "not in" if self.is_negated else "in"
        return f"{self.label} {operator} {{{', '.join(map(_quoted, self.values))}}}"


class Not(Struct, frozen=True):
    """Negation."""

    operand: Expression

    def matches(self, labels: Labels) -> bool:
        return not self.operand.matches(labels)

    def __str__(self) -> str:
        return f"!{_enclosed(self.operand)}"


class And(Struct, frozen=True):
    """All of several expressions."""

    operands: tuple[Expression, ...]

    def matches(self, labels: Labels) -> bool:
        return all(operand.matches(labels) for operand in self.operands)

    def __str__(self) -> str:
        return " && ".join(map(_enclosed, self.operands))


class Or(Struct, frozen=True):
    """At least one of several expressions."""

    operands: tuple[Expression, ...]

    def matches(self, labels: Labels) -> bool:
        return any(operand.matches(labels) for operand in self.operands)

    def __str__(self) -> str:
        return " || ".join(map(_enclosed, self.operands))


Expression = All | Global | Has | Comparison | Membership | Not | And | Or


def labels_in(expression: Expression) -> Iterator[str]:
    """Yield the labels that an expression names."""
    match expression:
        case Has(label) | Comparison(label) | Membership(label):
            yield label
        case Not(operand):
            yield from labels_in(operand)
        case And(operands) | Or(operands):
            for operand in operands:
                yield from labels_in(operand)


def has_global(expression: Expression) -> bool:
    """Return True if an expression contains global()."""
    match expression:
        case Global():
            return True
        case Not(operand):
            return has_global(operand)
        case And(operands) | Or(operands):
            return any(map(has_global, operands))
    return False


@lru_cache(maxsize=1024)
def parse_selector(text: str) -> Expression:
    """Parse a selector; an empty one matches all objects.

    Raises ValueError, which names the column of the mistake and what was expected.
    """
    tokens = list(_tokens(text))
    if tokens[0].kind == "end":
        return All()
    parser = _Parser(tokens)
    expression = parser.any_of()
    parser.expect("end", "&&, || or the end")
    return expression


def selector_fault(text: str) -> str:
    """Return the mistake in a selector; empty for a valid one."""
    try:
        parse_selector(text)
    except ValueError as error:
        return str(error)
    return ""


def _quoted(value: str) -> str:
    """Return a value in quotes that it does not contain; no selector has both kinds in one."""
    return f"'{value}'" if '"' in value else f'"{value}"'


def _enclosed(operand: Expression) -> str:
    return f"({operand})" if isinstance(operand, And | Or) else str(operand)


class _Token(NamedTuple):
    """Part of a selector."""

    kind: str
    """`label`, `string`, `end`, a symbol, an operator, or the name of a function."""
    value: str
    """Label, string, or argument of the function."""
    position: int
    text: str
    """The token as given."""


def _tokens(text: str) -> Iterator[_Token]:
    position, former = _skip_space(text, 0), ""
    while position < len(text):
        token = _token(text, position, former)
        yield token
        former = token.kind
        position = _skip_space(text, position + len(token.text))
    yield _Token("end", "", len(text), "")


def _skip_space(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    return space.end() if space is not None else position


def _token(text: str, position: int, former: str) -> _Token:
    """Return the token at a position. Words are operators only after a label."""
    if symbol := next((each for each in _SYMBOLS if text.startswith(each, position)), ""):
        return _Token(symbol, "", position, symbol)
    if text[position] in "\"'":
        end = text.find(text[position], position + 1)
        if end < 0:
            raise _error(position, "a closing quote", "the end of the selector")
        return _Token("string", text[position + 1 : end], position, text[position : end + 1])
    if former == "label":
        for pattern, name in _OPERATORS.items():
            if match := pattern.match(text, position):
                return _Token(name, "", position, match.group())
        raise _error(position, "an operator after the label", _rest(text, position))
    if function := _FUNCTION.match(text, position):
        return _function(text, function)
    if word := _LABEL.match(text, position):
        if len(word.group()) > MAX_LABEL:
            raise _error(
                position,
                f"a label of at most {MAX_LABEL} characters",
                f"one with {len(word.group())}",
            )
        return _Token("label", word.group(), position, word.group())
    raise _error(position, "a label, a value in quotes or an operator", _rest(text, position))


def _function(text: str, start: re.Match[str]) -> _Token:
    """Return the token of `has(label)`, `all()` or `global()`."""
    name, position = start.group(1), _skip_space(text, start.end())
    label = ""
    if name == "has":
        word = _LABEL.match(text, position)
        if word is None or len(word.group()) > MAX_LABEL:
            raise _error(position, "a label", _rest(text, position))
        label = word.group()
        position = _skip_space(text, word.end())
    if not text.startswith(")", position):
        raise _error(position, f'")" after {name}(', _rest(text, position))
    return _Token(name, label, start.start(), text[start.start() : position + 1])


def _rest(text: str, position: int) -> str:
    """Return the part of a selector at which a mistake is, for messages."""
    word = _LABEL.match(text, position)
    part = word.group() if word is not None else text[position : position + 1]
    return f'"{part}"' if part else "the end of the selector"


def _error(position: int, expected: str, found: str) -> ValueError:
    return ValueError(f"column {position + 1}: expected {expected}, found {found}; {_EXAMPLES}")


class _Parser:
    """Recursive descent over the tokens of one selector."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._position = 0
        self._depth = 0

    def expect(self, kind: str, expected: str) -> _Token:
        """Return the next token, which has to be of a kind, and go on."""
        token = self._tokens[self._position]
        if token.kind != kind:
            found = f'"{token.text}"' if token.text else "the end of the selector"
            raise _error(token.position, expected, found)
        self._position += 1
        return token

    def any_of(self) -> Expression:
        """Parse terms that are separated by ||."""
        terms = [self._all_of()]
        while self._skip("||"):
            terms.append(self._all_of())
        return terms[0] if len(terms) == 1 else Or(tuple(terms))

    def _all_of(self) -> Expression:
        terms = [self._term()]
        while self._skip("&&"):
            terms.append(self._term())
        return terms[0] if len(terms) == 1 else And(tuple(terms))

    def _term(self) -> Expression:
        is_negated = False
        while self._skip("!"):
            is_negated = not is_negated
        expression = self._operand()
        return Not(expression) if is_negated else expression

    def _operand(self) -> Expression:
        token = self._tokens[self._position]
        match token.kind:
            case "(":
                self._position += 1
                self._depth += 1
                if self._depth > MAX_DEPTH:
                    raise _error(token.position, f"at most {MAX_DEPTH} parentheses", "more")
                inner = self.any_of()
                self.expect(")", '&&, || or ")"')
                self._depth -= 1
                return inner
            case "all":
                self._position += 1
                return All()
            case "global":
                self._position += 1
                return Global()
            case "has":
                self._position += 1
                return Has(token.value)
        label = self.expect("label", "a label, has(…), all(), ! or (").value
        return self._comparison(label)

    def _comparison(self, label: str) -> Expression:
        """Parse the operator and the value after a label."""
        operator = self._tokens[self._position].kind
        match operator:
            case "==" | "!=" | "contains" | "starts with" | "ends with":
                self._position += 1
                return Comparison(label, operator, self.expect("string", "a value in quotes").value)
            case "in" | "not in":
                self._position += 1
                return Membership(label, self._values(), operator == "not in")
        self.expect("operator", "an operator after the label")
        raise AssertionError(operator)

    def _values(self) -> tuple[str, ...]:
        """Parse a set of values, which may be empty, and may end with a comma."""
        self.expect("{", 'a set such as {"a", "b"}')
        values: list[str] = []
        while self._tokens[self._position].kind == "string":
            values.append(self.expect("string", "").value)
            if not self._skip(","):
                break
        self.expect("}", 'a value in quotes, "," or "}"')
        return tuple(sorted(set(values)))

    def _skip(self, kind: str) -> bool:
        """Return True, and go on, if the next token is of this kind."""
        is_next = self._tokens[self._position].kind == kind
        self._position += is_next
        return is_next
