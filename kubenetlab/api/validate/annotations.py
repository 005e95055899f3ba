"""Validation of the lab's own annotations of pods and Services."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, get_args

from kubenetlab.api.annotation_values import conditions_in, names_in, ports_in, split_list
from kubenetlab.api.calico.as_numbers import as_number_fault
from kubenetlab.api.calico.bgp import (
    AS_NUMBER_ANNOTATION,
    CLUSTER_ID_ANNOTATION,
    cluster_id_fault,
)
from kubenetlab.api.core import IP_MODE_ANNOTATION, IpMode
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.plugins.kube_router import ADVERTISE_ANNOTATIONS
from kubenetlab.api.pods import (
    ADDRESSES_ANNOTATION,
    CALICO_ADDRESSES_ANNOTATION,
    CALICO_POOLS_ANNOTATIONS,
    CONDITIONS_ANNOTATION,
    DURATION_ANNOTATION,
    EXIT_CODE_ANNOTATION,
    LISTEN_ANNOTATION,
    MAC_ANNOTATION,
    POOL_ANNOTATION,
    READY_ANNOTATION,
    REAL_COMMANDS_ANNOTATION,
)
from kubenetlab.api.text.decode import Finding, found
from kubenetlab.api.text.documents import Path
from kubenetlab.api.validate.syntax import key_fault
from kubenetlab.api.values.durations import duration_s
from kubenetlab.api.values.ip import is_address
from kubenetlab.errors import did_you_mean

PREFIX: Final = "kubenetlab.dev/"
"""Prefix of the lab's own annotations."""
_SYSTEM_CONDITIONS: Final = (
    "PodScheduled",
    "PodReadyToStartContainers",
    "Initialized",
    "ContainersReady",
    "Ready",
)
"""Pod conditions that the scheduler and the kubelet set."""
_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)
MAX_EXIT_CODE: Final = 255
"""Maximum exit status of a process."""


def validate_annotations(meta: ObjectMeta, path: Path, kind: str) -> Iterator[Finding]:
    """Yield the findings about the lab's own annotations.

    kind: kind of the object with the metadata; Pod for the metadata of a pod template.
    An annotation without effect counts as an unknown field.
    """
    for key, value in meta.annotations.items():
        annotation_path = (*path, "annotations", key)
        if key in ADVERTISE_ANNOTATIONS and kind == "Service" and (fault := _bool_fault(value)):
            yield Finding(annotation_path, fault)
        if key in _OF_NODES and kind == "Node" and (fault := _OF_NODES[key](value)):
            yield Finding(annotation_path, fault)
        if key in _LISTS:
            yield from _list_findings(key, value, annotation_path)
        if not key.startswith(PREFIX):
            continue
        if key not in _VALIDATORS:
            yield Finding(
                annotation_path,
                f"unknown annotation{did_you_mean(key, _VALIDATORS)}",
                is_unknown_field=True,
                hints=(f"known: {', '.join(_VALIDATORS)}",),
            )
            continue
        annotated_kind, fault_of = _VALIDATORS[key]
        if fault := fault_of(value):
            yield Finding(annotation_path, fault)
        elif annotated_kind != kind:
            hint = "in a workload, it belongs in spec.template.metadata"
            yield Finding(
                annotation_path,
                f"only {annotated_kind}s have this annotation; here it has no effect",
                is_unknown_field=True,
                hints=(hint,) if annotated_kind == "Pod" else (),
            )


def _list_findings(key: str, value: str, path: Path) -> Iterator[Finding]:
    """Yield the finding about an annotation of Calico that is not a JSON list of its entries."""
    expected, is_valid = _LISTS[key]
    try:
        entries = names_in(value)
    except ValueError:
        entries = None
    if not entries or not all(is_valid(entry) for entry in entries):
        yield Finding(path, f"expected {expected}, found {found(value)}")


_LISTS: Final[Mapping[str, tuple[str, Callable[[str], bool]]]] = {
    CALICO_ADDRESSES_ANNOTATION: ('a list of addresses such as ["10.244.7.5"]', is_address),
    **dict.fromkeys(
        CALICO_POOLS_ANNOTATIONS.values(),
        ('a list of IPPools such as ["default-ipv4-ippool"]', bool),
    ),
}
"""Annotation of Calico → expected value, and function that returns True for a valid entry."""


_OF_NODES: Final[Mapping[str, Callable[[str], str | None]]] = {
    AS_NUMBER_ANNOTATION: as_number_fault,
    CLUSTER_ID_ANNOTATION: cluster_id_fault,
}
"""Annotation of Calico for nodes → function that returns the fault of a value or None."""


def _bool_fault(value: str) -> str | None:
    return (
        None if value in ("true", "false") else f'expected "true" or "false", found {found(value)}'
    )


def _addresses_fault(value: str) -> str | None:
    return next(
        (
            f"expected IP addresses, found {found(part)}"
            for part in split_list(value)
            if not is_address(part)
        ),
        None,
    )


def _mac_fault(value: str) -> str | None:
    if _MAC.fullmatch(value) and int(value[:2], 16) & 1 == 0:
        return None
    return f'expected a unicast MAC address such as "0a:58:0a:f4:01:4d", found {found(value)}'


def _listen_fault(value: str) -> str | None:
    try:
        ports_in(value)
    except ValueError as error:
        return f'expected ports such as "1234/TCP,5353/UDP", found {found(str(error))}'
    return None


def _conditions_fault(value: str) -> str | None:
    try:
        conditions = conditions_in(value)
    except ValueError as error:
        return (
            'expected conditions such as "example.com/load-balancer=True", each once, '
            f"with the status True, False or Unknown, found {found(str(error))}"
        )
    for condition in conditions:
        if condition.type in _SYSTEM_CONDITIONS:
            return (
                f"the condition {condition.type} is set by the scheduler or the kubelet; "
                "an annotation cannot set it"
            )
        if fault := key_fault(condition.type):
            return fault
    return None


def _exit_code_fault(value: str) -> str | None:
    is_status = (
        value.isascii() and value.isdigit() and len(value) <= 3 and int(value) <= MAX_EXIT_CODE
    )
    return (
        None if is_status else f"expected a number from 0 to {MAX_EXIT_CODE}, found {found(value)}"
    )


def _duration_fault(value: str) -> str | None:
    is_duration = bool(value) and duration_s(value) is not None
    return (
        None
        if is_duration
        else f'expected a duration such as "5s" or "1m30s", found {found(value)}'
    )


def _pool_fault(value: str) -> str | None:
    return None if value else "expected the name of a pool of networking.ipam.pools, found nothing"


def _ip_mode_fault(value: str) -> str | None:
    return (
        None
        if value in get_args(IpMode)
        else f"expected {' or '.join(get_args(IpMode))}, found {found(value)}"
    )


_VALIDATORS: Final[Mapping[str, tuple[str, Callable[[str], str | None]]]] = {
    ADDRESSES_ANNOTATION: ("Pod", _addresses_fault),
    MAC_ANNOTATION: ("Pod", _mac_fault),
    POOL_ANNOTATION: ("Pod", _pool_fault),
    READY_ANNOTATION: ("Pod", _bool_fault),
    CONDITIONS_ANNOTATION: ("Pod", _conditions_fault),
    LISTEN_ANNOTATION: ("Pod", _listen_fault),
    EXIT_CODE_ANNOTATION: ("Pod", _exit_code_fault),
    DURATION_ANNOTATION: ("Pod", _duration_fault),
    REAL_COMMANDS_ANNOTATION: ("Pod", _bool_fault),
    IP_MODE_ANNOTATION: ("Service", _ip_mode_fault),
}
"""Annotation → kind that has it, function that returns the fault of a value or None."""
