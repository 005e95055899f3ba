"""Text about changes of the Cluster document."""

from __future__ import annotations

from kubenetlab.api.config import ClusterConfig, Networking
from kubenetlab.controllers.admission.config_changes import describe_changes


def test_the_content_of_a_file_is_not_shown() -> None:
    """A CNI configuration list has many lines; short values are as on the command line."""
    old = ClusterConfig(networking=Networking(cni="none"))
    options = {"type": "conflist", "conflist": '{\n"name": "net"}', "routes": "none"}
    new = ClusterConfig(networking=Networking(cni=options))
    assert list(describe_changes(old, new)) == [
        "networking.cni none → conflist,conflist=…,routes=none"
    ]
