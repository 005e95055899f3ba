"""ConfigMap and Secret, and the environment variables of containers.

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
    """Field of the pod."""

    field_path: str
    """Path of the field, such as `metadata.name` or `status.podIP`."""
    api_version: str = "v1"
    """API version of the path."""


class KeySelector(Record, frozen=True):
    """Key of a ConfigMap or a Secret."""

    key: str
    """The key."""
    name: str = ""
    """Name of the ConfigMap or Secret."""
    optional: bool = False
    """If true, a missing key omits the variable. Otherwise it keeps the container from starting.
    """


class EnvVarSource(Record, frozen=True):
    """Source of the value of an environment variable. Exactly one field must be set."""

    field_ref: ObjectFieldSelector | None = None
    """Field of the pod."""
    config_map_key_ref: KeySelector | None = None
    """Key of a ConfigMap."""
    secret_key_ref: KeySelector | None = None
    """Key of a Secret."""
    resource_field_ref: Unmodelled = None
    file_key_ref: Unmodelled = None


class EnvVar(Record, frozen=True):
    """Environment variable of a container."""

    name: str
    """Name of the variable."""
    value: str = ""
    """Value of the variable. `$(NAME)` is replaced by a variable defined before, `$$` by `$`."""
    value_from: EnvVarSource | None = None
    """Source of the value. Not allowed together with `value`."""


class SourceReference(Record, frozen=True):
    """Reference to a ConfigMap or a Secret."""

    name: str = ""
    """Name of the object."""
    optional: bool = False
    """If true, the object may be missing."""


class EnvFromSource(Record, frozen=True):
    """ConfigMap or Secret whose keys become environment variables."""

    prefix: str = ""
    """Prefix of the names of the variables."""
    config_map_ref: SourceReference | None = None
    """ConfigMap to read."""
    secret_ref: SourceReference | None = None
    """Secret to read."""


class ConfigMap(Resource, frozen=True):
    """Configuration data for pods."""

    api_version = "v1"
    kind = "ConfigMap"
    plural = "configmaps"
    short_names = ("cm",)

    metadata: ObjectMeta
    data: Mapping[str, str] = {}
    """Text by key."""
    binary_data: Mapping[str, str] = {}
    """Binary data by key, in base64."""
    immutable: Unmodelled = None

    @property
    def values(self) -> Mapping[str, str]:
        """Values that environment variables can have: text only."""
        return self.data


class Secret(Resource, frozen=True):
    """Confidential data for pods."""

    api_version = "v1"
    kind = "Secret"
    plural = "secrets"

    metadata: ObjectMeta
    type: str = "Opaque"
    """Type of the data."""
    data: Mapping[str, str] = {}
    """Data by key, in base64."""
    string_data: Mapping[str, str] = {}
    """Data by key, as plain text. Write-only: it is merged into `data`."""
    immutable: Unmodelled = None

    def decoded(self, key: str) -> bytes:
        """Return the value of a key; nothing if the Secret has none."""
        return b64decode(self.data.get(key, ""))

    @property
    def values(self) -> Mapping[str, str]:
        """Decoded values by key."""
        return {key: b64decode(value).decode(errors="replace") for key, value in self.data.items()}


def sealed(secret: Secret) -> Secret:
    """Return the Secret as it is stored: `string_data` is merged into `data`, in base64."""
    if not secret.string_data:
        return secret
    encoded = {key: b64encode(value.encode()).decode() for key, value in secret.string_data.items()}
    return structs.replace(secret, data={**secret.data, **encoded}, string_data={})


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by its value and `$$` by `$`; keep a reference without a value."""
    return _REFERENCE.sub(
        lambda match: "$" if match[0] == "$$" else values.get(match[1], match[0]), text
    )
