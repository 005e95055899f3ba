"""Names, labels and annotations.

Source: RFC 1035 §2.3.1, RFC 1123 §2.1; k8s.io/apimachinery pkg/util/validation/validation.go.
"""

import re
from collections.abc import Iterator, Mapping

from kubenetlab.api.core import Namespace
from kubenetlab.api.decode import Finding, found
from kubenetlab.api.documents import Path
from kubenetlab.api.meta import LabelSelector, ObjectMeta, Resource
from kubenetlab.api.pods import Pod
from kubenetlab.api.validate.annotations import validate_annotations
from kubenetlab.names import LABEL, label_fault

_SUBDOMAIN = re.compile(rf"{LABEL.pattern}(\.{LABEL.pattern})*")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"(?=[a-z0-9-]*[a-z])(?!.*--)[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def subdomain_fault(name: str) -> str | None:
    """Why `name` is no DNS subdomain, or None when it is one."""
    if len(name) > 253:
        return f"wanted at most 253 characters, found {len(name)}"
    if not _SUBDOMAIN.fullmatch(name):
        return (
            f"wanted a DNS subdomain (RFC 1123: lower-case letters, digits, - and ., a letter or digit at both ends), found {found(name)}"
        )
    return None


def service_name_fault(name: str) -> str | None:
    """Why `name` cannot name a Service, or None when it can: a DNS label of RFC 1035, so no digit comes first."""
    if fault := label_fault(name):
        return fault
    if name[0].isdigit():
        return f"wanted a DNS label that begins with a letter (RFC 1035), found {found(name)}"
    return None


def port_name_fault(name: str) -> str | None:
    """Why `name` cannot name a port of a container, or None when it can (IANA service name, RFC 6335 §5.1)."""
    if len(name) > 15:
        return f"wanted at most 15 characters, found {len(name)}"
    if not _PORT_NAME.fullmatch(name):
        return f"wanted lower-case letters, digits and single -, with a letter in it, found {found(name)}"
    return None


def validate_metadata(obj: Resource) -> Iterator[Finding]:
    """Name, namespace, labels and annotations of any object."""
    meta = obj.metadata
    fault_of = {"Namespace": label_fault, "Service": service_name_fault}.get(obj.kind, subdomain_fault)
    if not meta.name:
        hint = ("generateName is for `kubectl create`; what is applied needs a name",) if meta.generate_name else ()
        yield Finding(("metadata", "name"), "required, but missing", hints=hint)
    elif fault := fault_of(meta.name):
        yield Finding(("metadata", "name"), fault)
    if meta.namespace and not obj.is_namespaced:
        yield Finding(("metadata", "namespace"), f"a {obj.kind} belongs to no namespace")
    elif meta.namespace and (fault := label_fault(meta.namespace)):
        yield Finding(("metadata", "namespace"), fault)
    yield from validate_template_metadata(meta, ("metadata",), kind=obj.kind)


def validate_template_metadata(meta: ObjectMeta, path: Path, *, kind: str = Pod.kind) -> Iterator[Finding]:
    """Labels and annotations; of a pod template's metadata nothing else matters."""
    yield from validate_labels(meta.labels, (*path, "labels"))
    for key in meta.annotations:
        if fault := key_fault(key):
            yield Finding((*path, "annotations", key), fault)
    yield from validate_annotations(meta, path, kind)


def validate_labels(labels: Mapping[str, str], path: Path) -> Iterator[Finding]:
    """Keys and values of labels."""
    for key, value in labels.items():
        if fault := key_fault(key):
            yield Finding((*path, key), fault)
        if len(value) > 63:
            yield Finding((*path, key), f"wanted at most 63 characters, found {len(value)}")
        elif value and not _QUALIFIED.fullmatch(value):
            yield Finding((*path, key), f"wanted letters, digits, -, _ and ., a letter or digit at both ends, found {found(value)}")


def validate_selector(selector: LabelSelector, path: Path) -> Iterator[Finding]:
    """Labels and expressions of a selector."""
    yield from validate_labels(selector.match_labels, (*path, "matchLabels"))
    for index, part in enumerate(selector.match_expressions):
        here = (*path, "matchExpressions", index, "values")
        if part.operator in ("In", "NotIn") and not part.values:
            yield Finding(here, f"required with operator {part.operator}")
        if part.operator in ("Exists", "DoesNotExist") and part.values:
            yield Finding(here, f"not allowed with operator {part.operator}")


def validate_namespace(namespace: Namespace) -> Iterator[Finding]:
    """Nothing beyond its metadata can be wrong with a Namespace."""
    return iter(())


def key_fault(key: str) -> str | None:
    """Why `key` can be no label's, annotation's or taint's, or None when it can."""
    prefix, slash, name = key.rpartition("/")
    if slash and (subdomain_fault(prefix) is not None):
        return f"the part before / must be a DNS subdomain, found {found(prefix)}"
    if not name or len(name) > 63 or not _QUALIFIED.fullmatch(name):
        return f"wanted a name of at most 63 letters, digits, -, _ and ., found {found(name)}"
    return None
