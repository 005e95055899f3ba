"""Validation of names, labels, annotations and selectors."""

from collections.abc import Iterator, Mapping, Sequence

from kubenetlab.api.core import Namespace
from kubenetlab.api.meta import LabelSelector, ObjectMeta, Resource
from kubenetlab.api.pods import Pod
from kubenetlab.api.text.decode import Finding, found
from kubenetlab.api.text.documents import Path
from kubenetlab.api.validate.annotations import validate_annotations
from kubenetlab.api.validate.syntax import (
    QUALIFIED_NAME,
    key_fault,
    service_name_fault,
    subdomain_fault,
)
from kubenetlab.names import label_problem


def validate_metadata(obj: Resource) -> Iterator[Finding]:
    """Validate the metadata of an object; yield every finding."""
    meta = obj.metadata
    fault_of = {"Namespace": label_problem, "Service": service_name_fault}.get(
        obj.kind, subdomain_fault
    )
    if not meta.name:
        hint = (
            ("generateName works only with `kubectl create`; set metadata.name",)
            if meta.generate_name
            else ()
        )
        yield Finding(("metadata", "name"), "required, but missing", hints=hint)
    elif fault := fault_of(meta.name):
        yield Finding(("metadata", "name"), fault)
    if meta.namespace and not obj.is_namespaced:
        yield Finding(("metadata", "namespace"), f"a {obj.kind} has no namespace")
    elif meta.namespace and (fault := label_problem(meta.namespace)):
        yield Finding(("metadata", "namespace"), fault)
    yield from validate_template_metadata(meta, ("metadata",), kind=obj.kind)


def validate_template_metadata(
    meta: ObjectMeta, path: Path, *, kind: str = Pod.kind
) -> Iterator[Finding]:
    """Validate labels and annotations, the only metadata of a pod template that is used."""
    yield from validate_labels(meta.labels, (*path, "labels"))
    for key in meta.annotations:
        if fault := key_fault(key):
            yield Finding((*path, "annotations", key), fault)
    yield from validate_annotations(meta, path, kind)


def validate_labels(labels: Mapping[str, str], path: Path) -> Iterator[Finding]:
    """Validate the keys and values of labels; yield every finding."""
    for key, value in labels.items():
        if fault := key_fault(key):
            yield Finding((*path, key), fault)
        if len(value) > 63:
            yield Finding((*path, key), f"expected at most 63 characters, found {len(value)}")
        elif value and not QUALIFIED_NAME.fullmatch(value):
            yield Finding(
                (*path, key),
                "expected letters, digits, -, _ and ., a letter or digit at both ends, "
                f"found {found(value)}",
            )


def validate_selector(selector: LabelSelector, path: Path) -> Iterator[Finding]:
    """Validate the labels and requirements of a selector; yield every finding."""
    yield from validate_labels(selector.match_labels, (*path, "matchLabels"))
    for index, requirement in enumerate(selector.match_expressions):
        values_path = (*path, "matchExpressions", index, "values")
        yield from validate_values(requirement.operator, requirement.values, values_path)


def validate_values(operator: str, values: Sequence[str], path: Path) -> Iterator[Finding]:
    """Validate that a requirement has values if its operator needs them, and else none."""
    if operator in ("In", "NotIn") and not values:
        yield Finding(path, f"required with operator {operator}")
    if operator in ("Exists", "DoesNotExist") and values:
        yield Finding(path, f"not allowed with operator {operator}")


def validate_namespace(namespace: Namespace) -> Iterator[Finding]:
    """Yield nothing: a Namespace has only metadata."""
    return iter(())
