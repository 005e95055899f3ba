"""Resources of a container: quantities that can be read, of resources that containers can have, requests within limits.

Source: k8s.io/kubernetes pkg/apis/core/validation/validation.go ValidateContainerResourceRequirements() (1.33).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING

from kubenetlab.api.containers import ResourceRequirements
from kubenetlab.api.decode import Finding, found
from kubenetlab.api.documents import Path
from kubenetlab.api.quantity import SYNTAX, Quantity, parse_quantity
from kubenetlab.api.validate.syntax import key_fault

if TYPE_CHECKING:
    from fractions import Fraction

_STANDARD = ("cpu", "memory", "ephemeral-storage")
_HUGE_PAGES = "hugepages-"
_WHOLE = ("memory", "ephemeral-storage")
"""Resources that are counted in bytes: a fraction of one is a mistake that upstream only warns of."""


def validate_resources(resources: ResourceRequirements, path: Path) -> Iterator[Finding]:
    """Yield every problem of a container's requests and limits."""
    limits = yield from _read(resources.limits, (*path, "limits"))
    requests = yield from _read(resources.requests, (*path, "requests"))
    for name, request in requests.items():
        limit = limits.get(name)
        here = (*path, "requests", name)
        if limit is not None and request > limit:
            yield Finding(
                here,
                f"must be less than or equal to the {name} limit of {resources.limits[name]}, found {resources.requests[name]}",
            )
        elif "/" in name and limit is None and name not in resources.limits:
            yield Finding((*path, "limits"), f"required for {name}, which cannot be overcommitted")


def _read(
    quantities: Mapping[str, Quantity], path: Path
) -> Generator[Finding, None, dict[str, Fraction]]:
    """Yield the problems of one of the two mappings; the generator returns the values that can be used."""
    values: dict[str, Fraction] = {}
    for name, text in quantities.items():
        here = (*path, name)
        if fault := _name_fault(name):
            yield Finding(here, fault)
        try:
            value = parse_quantity(text)
        except ValueError:
            yield Finding(here, f"expected a quantity ({SYNTAX}), found {found(text)}")
            continue
        if value < 0:
            yield Finding(here, f"must be greater than or equal to 0, found {text}")
            continue
        if value.denominator != 1 and "/" in name:
            yield Finding(here, f"must be an integer, found {text}")
            continue
        if value.denominator != 1 and name in _WHOLE:
            yield Finding(
                here,
                f"fractional byte value {found(text)} is invalid, must be an integer",
                is_warning=True,
            )
        values[name] = value
    return values


def _name_fault(name: str) -> str:
    if "/" in name:
        return key_fault(name) or ""
    is_standard = name in _STANDARD or name.startswith(_HUGE_PAGES)
    return (
        ""
        if is_standard
        else f"must be a standard resource for containers ({', '.join(_STANDARD)}) or have a domain as its prefix"
    )
