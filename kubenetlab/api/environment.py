"""Environment variables of containers, and the two kinds that they are read from: ConfigMap and Secret.

Source: k8s.io/api core/v1/types.go (1.33).
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping

from msgspec import structs

from kubenetlab.api.meta import ObjectMeta, Record, Resource, Unmodelled

_REFERENCE = re.compile(r"\$\$|\$\(([^)]+)\)")


class ObjectFieldSelector(Record, frozen=True):
    """A field of the pod: `metadata.name`, `status.podIP` …"""

    field_path: str
    api_version: str = "v1"


class KeySelector(Record, frozen=True):
    """One key of a ConfigMap or a Secret."""

    key: str
    name: str = ""
    optional: bool = False
    """When it is missing the variable is left out; otherwise the container is not started."""


class EnvVarSource(Record, frozen=True):
    """Where a value comes from."""

    field_ref: ObjectFieldSelector | None = None
    config_map_key_ref: KeySelector | None = None
    secret_key_ref: KeySelector | None = None
    resource_field_ref: Unmodelled = None
    file_key_ref: Unmodelled = None


class EnvVar(Record, frozen=True):
    """One environment variable."""

    name: str
    value: str = ""
    """`$(NAME)` stands for a variable before it, `$$` for a dollar."""
    value_from: EnvVarSource | None = None


class SourceReference(Record, frozen=True):
    """A whole ConfigMap or Secret."""

    name: str = ""
    optional: bool = False


class EnvFromSource(Record, frozen=True):
    """Every key of a ConfigMap or a Secret as a variable."""

    prefix: str = ""
    config_map_ref: SourceReference | None = None
    secret_ref: SourceReference | None = None


class ConfigMap(Resource, frozen=True):
    """Settings, by key."""

    api_version = "v1"
    kind = "ConfigMap"
    plural = "configmaps"
    short_names = ("cm",)

    metadata: ObjectMeta
    data: Mapping[str, str] = {}
    binary_data: Mapping[str, str] = {}
    """In base64."""
    immutable: Unmodelled = None

    @property
    def values(self) -> Mapping[str, str]:
        """What variables can be read from: text only."""
        return self.data


class Secret(Resource, frozen=True):
    """Settings that are not to be seen, by key."""

    api_version = "v1"
    kind = "Secret"
    plural = "secrets"

    metadata: ObjectMeta
    type: str = "Opaque"
    data: Mapping[str, str] = {}
    """In base64."""
    string_data: Mapping[str, str] = {}
    """As it is; the API server puts it into `data`."""
    immutable: Unmodelled = None

    @property
    def values(self) -> Mapping[str, str]:
        """The values as they are."""
        return {key: b64decode(value).decode(errors="replace") for key, value in self.data.items()}


def sealed(secret: Secret) -> Secret:
    """The Secret as it is stored: all in base64."""
    if not secret.string_data:
        return secret
    given = {key: b64encode(value.encode()).decode() for key, value in secret.string_data.items()}
    return structs.replace(secret, data={**secret.data, **given}, string_data={})


def expand(text: str, values: Mapping[str, str]) -> str:
    """`$(NAME)` by its value, as it stands where there is none; `$$` is a dollar."""
    return _REFERENCE.sub(
        lambda match: "$" if match[0] == "$$" else values.get(match[1], match[0]), text
    )
