"""The lab's own annotations, all of pods: a wrong value is refused, and what would have no effect is told."""

from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from typing import Final

from kubenetlab.api.decode import Finding, found
from kubenetlab.api.documents import Path
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.pods import ADDRESSES_ANNOTATION, POOL_ANNOTATION, READY_ANNOTATION, REAL_COMMANDS_ANNOTATION
from kubenetlab.errors import did_you_mean

PREFIX: Final = "kubenetlab.dev/"


def validate_annotations(meta: ObjectMeta, path: Path, *, of_pods: bool) -> Iterator[Finding]:
    """`of_pods` is False for the metadata of anything but a pod or a template. What only has no effect counts as an unknown field."""
    for key, value in meta.annotations.items():
        here = (*path, "annotations", key)
        if not key.startswith(PREFIX):
            continue
        if key not in _FAULTS:
            known = f"known: {', '.join(_FAULTS)}"
            yield Finding(here, f"unknown annotation{did_you_mean(key, _FAULTS)}", is_unknown_field=True, hints=(known,))
        elif fault := _FAULTS[key](value):
            yield Finding(here, fault)
        elif not of_pods:
            hint = "of a workload it belongs into spec.template.metadata"
            yield Finding(here, "only pods have this annotation; here it has no effect", is_unknown_field=True, hints=(hint,))


def _bool_fault(value: str) -> str | None:
    return None if value in ("true", "false") else f'wanted "true" or "false", found {found(value)}'


def _addresses_fault(value: str) -> str | None:
    for part in filter(None, (part.strip() for part in value.split(","))):
        try:
            ip_address(part)
        except ValueError:
            return f"wanted IP addresses, found {found(part)}"
    return None


def _pool_fault(value: str) -> str | None:
    return None if value else "wanted the name of a pool of networking.ipam.pools, found nothing"


_FAULTS: Final[Mapping[str, Callable[[str], str | None]]] = {
    ADDRESSES_ANNOTATION: _addresses_fault,
    POOL_ANNOTATION: _pool_fault,
    READY_ANNOTATION: _bool_fault,
    REAL_COMMANDS_ANNOTATION: _bool_fault,
}
"""Every annotation that the lab knows, and why a value cannot be one of it."""
