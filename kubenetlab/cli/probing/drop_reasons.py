"""Reasons of dropped packets, looked up in the lab if the logs of nodes have cut them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenetlab.lab.paths import LAB_API
from kubenetlab.names import MAX_LOG_PREFIX

if TYPE_CHECKING:
    from kubenetlab.lab.client import Client


class DropReasons:
    """Whole reasons by the texts in logs."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[str, str] = {}

    def whole(self, text: str) -> str:
        """Return the reason that a log has; the text itself if its policies are deleted."""
        if len(text) < MAX_LOG_PREFIX:
            return text
        if text not in self._known:
            self._known |= self._client.get(f"{LAB_API}/drop-reasons")["reasons"]
        return self._known.setdefault(text, text)
