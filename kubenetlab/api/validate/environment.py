"""ConfigMaps, Secrets and environment variables: keys that can be keys, base64 that is base64, one source per value."""

import re
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping

from kubenetlab.api.containers import Container
from kubenetlab.api.decode import Finding, found
from kubenetlab.api.documents import Path
from kubenetlab.api.environment import ConfigMap, Secret
from kubenetlab.api.masquerade import CONFIG_MAP, masquerade_findings

_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_FIELDS = (
    "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
    "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
)  # fmt: skip
_LABELS = re.compile(r"metadata\.(labels|annotations)\['[^']+'\]")


def validate_config_map(config_map: ConfigMap) -> Iterator[Finding]:
    """What speaks against a ConfigMap."""
    yield from _keys(config_map.data, ("data",))
    yield from _keys(config_map.binary_data, ("binaryData",))
    yield from _base64(config_map.binary_data, ("binaryData",))
    for key in config_map.binary_data:
        if key in config_map.data:
            yield Finding(("binaryData", key), "stands in data too")
    if config_map.key == CONFIG_MAP:
        yield from masquerade_findings(config_map)


def validate_secret(secret: Secret) -> Iterator[Finding]:
    """What speaks against a Secret."""
    yield from _keys(secret.data, ("data",))
    yield from _keys(secret.string_data, ("stringData",))
    yield from _base64(secret.data, ("data",))


def validate_environment(container: Container, path: Path) -> Iterator[Finding]:
    """Yield what is wrong with a container's variables and words: what a process could not be born with."""
    for field, words in (("command", container.command), ("args", container.args)):
        yield from _nul(words, (*path, field))
    for index, variable in enumerate(container.env):
        here: Path = (*path, "env", index)
        if not variable.name or "=" in variable.name:
            yield Finding(
                (*here, "name"), f"expected a name without =, found {found(variable.name)}"
            )
        yield from _nul((variable.name,), (*here, "name"))
        yield from _nul((variable.value,), (*here, "value"))
        source = variable.value_from
        if source is None:
            continue
        if variable.value:
            yield Finding((*here, "valueFrom"), "may not be specified when `value` is not empty")
        kinds = (
            source.field_ref,
            source.config_map_key_ref,
            source.secret_key_ref,
            source.resource_field_ref,
            source.file_key_ref,
        )
        if sum(kind is not None for kind in kinds) != 1:
            yield Finding(
                (*here, "valueFrom"),
                "expected one of fieldRef, configMapKeyRef, secretKeyRef and resourceFieldRef",
            )
        if source.field_ref is not None and not (
            source.field_ref.field_path in _FIELDS or _LABELS.fullmatch(source.field_ref.field_path)
        ):
            wanted = f"expected one of {', '.join(_FIELDS)}, metadata.labels['KEY'] and metadata.annotations['KEY']"
            yield Finding(
                (*here, "valueFrom", "fieldRef", "fieldPath"),
                f"{wanted}, found {found(source.field_ref.field_path)}",
            )
    for index, origin in enumerate(container.env_from):
        if (origin.config_map_ref is None) == (origin.secret_ref is None):
            yield Finding((*path, "envFrom", index), "expected one of configMapRef and secretRef")


def _nul(texts: Iterable[str | None], path: Path) -> Iterator[Finding]:
    """Yield a finding where a text holds a NUL byte. Source: execve(2), where that ends every string."""
    if any("\0" in (text or "") for text in texts):
        yield Finding(path, "holds a NUL byte, which no process can be given")


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
