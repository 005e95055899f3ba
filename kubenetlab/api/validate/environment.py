"""Validation of ConfigMaps, Secrets and environment variables."""

import re
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping

from kubenetlab.api.containers import Container
from kubenetlab.api.environment import ConfigMap, EnvVarSource, Secret
from kubenetlab.api.masquerade import CONFIG_MAP, masquerade_findings
from kubenetlab.api.text.decode import Finding, found
from kubenetlab.api.text.documents import Path

_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_FIELDS = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
)
"""Fields that a variable can be set from."""
_LABELS = re.compile(r"metadata\.(labels|annotations)\['[^']+'\]")


def validate_config_map(config_map: ConfigMap) -> Iterator[Finding]:
    """Validate a ConfigMap; yield every finding."""
    yield from _keys(config_map.data, ("data",))
    yield from _keys(config_map.binary_data, ("binaryData",))
    yield from _base64(config_map.binary_data, ("binaryData",))
    for key in config_map.binary_data:
        if key in config_map.data:
            yield Finding(("binaryData", key), "the key is also in data")
    if config_map.key == CONFIG_MAP:
        yield from masquerade_findings(config_map)


def validate_secret(secret: Secret) -> Iterator[Finding]:
    """Validate a Secret; yield every finding."""
    yield from _keys(secret.data, ("data",))
    yield from _keys(secret.string_data, ("stringData",))
    yield from _base64(secret.data, ("data",))


def validate_environment(container: Container, path: Path) -> Iterator[Finding]:
    """Yield the findings about a container's command, arguments and environment variables."""
    for field, words in (("command", container.command), ("args", container.args)):
        yield from _nul(words, (*path, field))
    for index, variable in enumerate(container.env):
        variable_path: Path = (*path, "env", index)
        if not variable.name or "=" in variable.name:
            yield Finding(
                (*variable_path, "name"), f"expected a name without =, found {found(variable.name)}"
            )
        yield from _nul((variable.name,), (*variable_path, "name"))
        yield from _nul((variable.value,), (*variable_path, "value"))
        if variable.value_from is not None:
            source_path = (*variable_path, "valueFrom")
            if variable.value:
                yield Finding(source_path, "may not be specified when `value` is not empty")
            yield from _validate_source(variable.value_from, source_path)
    for index, env_from in enumerate(container.env_from):
        if (env_from.config_map_ref is None) == (env_from.secret_ref is None):
            yield Finding((*path, "envFrom", index), "expected one of configMapRef and secretRef")


def _validate_source(source: EnvVarSource, path: Path) -> Iterator[Finding]:
    references = (
        source.field_ref,
        source.config_map_key_ref,
        source.secret_key_ref,
        source.resource_field_ref,
        source.file_key_ref,
    )
    if sum(reference is not None for reference in references) != 1:
        yield Finding(
            path, "expected one of fieldRef, configMapKeyRef, secretKeyRef and resourceFieldRef"
        )
    if source.field_ref is None:
        return
    field_path = source.field_ref.field_path
    if field_path not in _FIELDS and not _LABELS.fullmatch(field_path):
        yield Finding(
            (*path, "fieldRef", "fieldPath"),
            f"expected one of {', '.join(_FIELDS)}, metadata.labels['KEY'] and "
            f"metadata.annotations['KEY'], found {found(field_path)}",
        )


def _nul(texts: Iterable[str | None], path: Path) -> Iterator[Finding]:
    """Yield a finding if a text contains a NUL byte, which ends a string of execve(2)."""
    if any("\0" in (text or "") for text in texts):
        yield Finding(path, "contains a NUL byte, which a process cannot be given")


def _keys(values: Mapping[str, str], path: Path) -> Iterator[Finding]:
    for key in values:
        if not _KEY.fullmatch(key) or key in (".", ".."):
            yield Finding((*path, key), "expected a key of at most 253 letters, digits, -, _ and .")


def _base64(values: Mapping[str, str], path: Path) -> Iterator[Finding]:
    for key, value in values.items():
        try:
            b64decode("".join(value.split()), validate=True)
        except ValueError as error:
            yield Finding(
                (*path, key),
                f"illegal base64 data: {error}",
                hints=("stringData takes the value as it is",) if path == ("data",) else (),
            )
