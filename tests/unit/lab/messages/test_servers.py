"""Servers handle every request of their protocols."""

from __future__ import annotations

import select
import socket
from pathlib import Path
from typing import Any, get_args

import pytest

from kubenetlab.lab.messages.app_worker import AppWorkerRequest
from kubenetlab.lab.messages.init import InitRequest
from kubenetlab.lab.messages.node_agent import NodeAgentRequest
from kubenetlab.lab.nodeagent.node_agent import NodeAgent
from kubenetlab.lab.processes.daemons import Daemons
from kubenetlab.lab.processes.pod_process_server import PodProcessServer
from kubenetlab.lab.runtime.worker import Worker
from kubenetlab.lab.transport.handlers import Handlers

NONE: Any = None


def handlers_of_init(listener: socket.socket, directory: Path) -> Handlers[int]:
    return PodProcessServer(
        NONE, select.poll(), NONE, NONE, NONE, NONE, Daemons(NONE, NONE, NONE)
    )._handlers


def handlers_of_node_agent(listener: socket.socket, directory: Path) -> Handlers[[]]:
    return NodeAgent(listener, directory, "node agent 0")._server._handlers


def handlers_of_worker(listener: socket.socket, directory: Path) -> Handlers[[]]:
    return Worker(listener, "app worker 0")._server._handlers


@pytest.mark.parametrize(
    ("create", "requests"),
    [
        pytest.param(handlers_of_init, InitRequest, id="init"),
        pytest.param(handlers_of_node_agent, NodeAgentRequest, id="node agent"),
        pytest.param(handlers_of_worker, AppWorkerRequest, id="app worker"),
    ],
)
def test_a_server_handles_each_request_of_its_protocol(
    create: Any, requests: Any, tmp_path: Path
) -> None:
    """The union of the requests and the table of the handlers agree."""
    with socket.socket(socket.AF_UNIX) as listener:
        assert create(listener, tmp_path).requests == set(get_args(requests))
