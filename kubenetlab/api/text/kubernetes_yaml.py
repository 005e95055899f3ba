"""PyYAML's C loader with the scalars of Kubernetes' YAML.

There are no timestamps and no base-60 numbers; exponents need no dot; 0644 is octal. Values that
JSON cannot hold are errors. Source: sigs.k8s.io/yaml (goyaml.v2).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable
from typing import NoReturn

import yaml

from kubenetlab.api.json_types import JsonValue

Constructor = Callable[["KubernetesLoader", yaml.Node], JsonValue]
"""Function that returns the value of a node."""


class KubernetesLoader(yaml.CSafeLoader):
    """YAML loader with Kubernetes' scalars that rejects duplicate keys."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Hashable, JsonValue]:
        if not isinstance(node, yaml.MappingNode):
            raise _type_error(node)
        keys: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a scalar", key.start_mark
                )
            if key.value in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f'duplicate key "{key.value}"', key.start_mark
                )
            keys.add(key.value)
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=True) for key, value in node.value}


_TAG = "tag:yaml.org,2002:"
KubernetesLoader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in (_TAG + "timestamp", _TAG + "int", _TAG + "float")
    ]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
KubernetesLoader.add_implicit_resolver(
    _TAG + "int",
    re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0[0-7_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|0b[01_]+)$"),
    list("-+0123456789"),
)
KubernetesLoader.add_implicit_resolver(
    _TAG + "float",
    re.compile(
        r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"
        r"|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def bounded_integer(digits: str, base: int = 10) -> int | float:
    """Return a number; one beyond 64 bits as a float, as Kubernetes does.

    Raises ValueError for a number beyond the range of floats.
    """
    value = int(digits, base)
    return (
        value if -(2**63) <= value < 2**64 else finite_float(digits if base == 10 else str(value))
    )


def finite_float(text: str) -> float:
    """Return a float that JSON can hold. Raises ValueError for infinity and NaN."""
    value = float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _integer(text: str) -> int | float:
    digits = text.replace("_", "")
    unsigned = digits.lstrip("+-")
    if len(unsigned) > 1 and unsigned[0] == "0" and unsigned[1] in "01234567":
        digits = digits.replace("0", "0o", 1)
    return bounded_integer(digits, 0)


def _scalar_constructor(convert: Callable[[str], JsonValue]) -> Constructor:
    """Return a constructor of scalars for which an explicit tag need not fit the value."""

    def construct(_: KubernetesLoader, node: yaml.Node) -> JsonValue:
        try:
            return convert(node.value)
        # ValueError is also raised for a number of thousands of digits.
        except (AttributeError, KeyError, TypeError, ValueError):
            raise _type_error(node) from None

    return construct


def _type_error(node: yaml.Node) -> yaml.constructor.ConstructorError:
    """Return the error for a value that does not fit its tag, or that Kubernetes cannot hold."""
    value = (
        f'"{node.value[:20]}{"…" * (len(node.value) > 20)}"'
        if isinstance(node, yaml.ScalarNode)
        else f"this {'mapping' if isinstance(node, yaml.MappingNode) else 'sequence'}"
    )
    expected = _NOUNS.get(node.tag)
    message = (
        f"{value} is not a {expected}"
        if expected
        else f"the tag {node.tag.replace(_TAG, '!!')} is not supported in Kubernetes manifests"
    )
    return yaml.constructor.ConstructorError(None, None, message, node.start_mark)


def _reject(_: KubernetesLoader, node: yaml.Node) -> NoReturn:
    raise _type_error(node)


_NOUNS = {
    _TAG + "int": "number",
    _TAG + "float": "number",
    _TAG + "bool": "boolean",
    _TAG + "map": "mapping",
    _TAG + "seq": "list",
}
"""Tag → noun in messages."""
KubernetesLoader.yaml_constructors = {
    tag: construct
    for tag, construct in yaml.CSafeLoader.yaml_constructors.items()
    if tag not in (_TAG + "binary", _TAG + "omap", _TAG + "pairs", _TAG + "set", _TAG + "timestamp")
}
KubernetesLoader.add_constructor(_TAG + "int", _scalar_constructor(_integer))
KubernetesLoader.add_constructor(_TAG + "float", _scalar_constructor(finite_float))
KubernetesLoader.add_constructor(
    _TAG + "bool", _scalar_constructor(lambda text: yaml.CSafeLoader.bool_values[text.lower()])
)
KubernetesLoader.add_constructor(None, _reject)
