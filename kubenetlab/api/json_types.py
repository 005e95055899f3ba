"""Types of JSON objects whose fields depend on their kind, or which nothing has checked yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

JsonValue = Any
"""A JSON value of any kind."""
JsonObject = dict[str, JsonValue]
"""A JSON object that is built up, or was decoded from text."""
JsonMapping = Mapping[str, JsonValue]
"""A JSON object that is only read, such as a Kubernetes object of any kind or a part of one."""
