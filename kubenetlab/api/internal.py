"""Base of the kinds in which a lab stores its own state."""

from __future__ import annotations

from kubenetlab.api.meta import Resource


class Internal(Resource, frozen=True):
    """Base of the kinds that the API does not serve."""

    api_version = "internal.kubenetlab.dev/v1"
