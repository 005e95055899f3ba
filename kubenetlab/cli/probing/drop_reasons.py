"""Full reasons of dropped packets: the lab knows those that the logs of nodes have shortened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenetlab.lab.paths import LAB_API
from kubenetlab.names import MAX_LOG_PREFIX

if TYPE_CHECKING:
    from kubenetlab.lab.client import Client


class DropReasons:
    """Full reasons by their texts in logs."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[str, str] = {}

    def whole(self, text: str) -> str:
        """Return the full reason for a text in a log.

        It is the text itself if the policies of the reason are deleted.
        """
        if len(text) < MAX_LOG_PREFIX:
            return text
        if text not in self._known:
            self._known |= self._client.get(f"{LAB_API}/drop-reasons")["reasons"]
        return self._known.setdefault(text, text)
