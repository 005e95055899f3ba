"""Validation of a container's resources: names, quantities, and requests within limits.

Source: ValidateContainerResourceRequirements() in k8s.io/kubernetes
pkg/apis/core/validation/validation.go (1.33).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING

from kubenetlab.api.containers import ResourceRequirements
from kubenetlab.api.text.decode import Finding, found
from kubenetlab.api.text.documents import Path
from kubenetlab.api.validate.syntax import key_fault
from kubenetlab.api.values.quantity import SYNTAX, Quantity, parse_quantity

if TYPE_CHECKING:
    from fractions import Fraction

_STANDARD = ("cpu", "memory", "ephemeral-storage")
_HUGE_PAGES = "hugepages-"
_WHOLE = ("memory", "ephemeral-storage")
"""Resources in bytes. For a fraction of a byte upstream only warns."""


def validate_resources(resources: ResourceRequirements, path: Path) -> Iterator[Finding]:
    """Validate the requests and limits of a container; yield every finding."""
    limits = yield from _parse(resources.limits, (*path, "limits"))
    requests = yield from _parse(resources.requests, (*path, "requests"))
    for name, request in requests.items():
        limit = limits.get(name)
        if limit is not None and request > limit:
            yield Finding(
                (*path, "requests", name),
                f"must be less than or equal to the {name} limit of {resources.limits[name]}, "
                f"found {resources.requests[name]}",
            )
        elif "/" in name and limit is None and name not in resources.limits:
            yield Finding((*path, "limits"), f"required for {name}, which cannot be overcommitted")


def _parse(
    quantities: Mapping[str, Quantity], path: Path
) -> Generator[Finding, None, dict[str, Fraction]]:
    """Yield the findings about quantities; the generator returns the valid values by name."""
    values: dict[str, Fraction] = {}
    for name, text in quantities.items():
        quantity_path = (*path, name)
        if fault := _name_fault(name):
            yield Finding(quantity_path, fault)
        try:
            value = parse_quantity(text)
        except ValueError:
            yield Finding(quantity_path, f"expected a quantity ({SYNTAX}), found {found(text)}")
            continue
        if value < 0:
            yield Finding(quantity_path, f"must be greater than or equal to 0, found {text}")
            continue
        if value.denominator != 1 and "/" in name:
            yield Finding(quantity_path, f"must be an integer, found {text}")
            continue
        if value.denominator != 1 and name in _WHOLE:
            yield Finding(
                quantity_path,
                f"fractional byte value {found(text)} is invalid, must be an integer",
                is_warning=True,
            )
        values[name] = value
    return values


def _name_fault(name: str) -> str:
    if "/" in name:
        return key_fault(name) or ""
    if name in _STANDARD or name.startswith(_HUGE_PAGES):
        return ""
    standard = ", ".join(_STANDARD)
    return f"must be a standard resource for containers ({standard}) or have a domain as prefix"
