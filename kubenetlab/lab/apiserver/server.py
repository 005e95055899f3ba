"""API server of a lab: Kubernetes' paths and verbs, and the lab's own API group.

    GET    /api/v1/namespaces/default/pods/web      also lists, `?watch=true`, `?labelSelector=`
    DELETE /apis/apps/v1/namespaces/default/deployments/web
    PUT    /apis/apps/v1/namespaces/default/deployments/web/scale
    PUT    /apis/apps/v1/namespaces/default/deployments/web/restart
    GET    /api/v1/namespaces/default/pods/web/log  see pod_logs.py
    *      /apis/kubenetlab.dev/v1alpha1/…          see lab_api.py

Errors are Status objects. Source: kubernetes.io/docs/reference/using-api/api-concepts.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from msgspec import Struct, structs

from kubenetlab import controllers
from kubenetlab.api.apps import MAX_REPLICAS, RESTARTED_ANNOTATION, Restartable, Scalable
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.core import Namespace, Node
from kubenetlab.api.json_types import JsonObject
from kubenetlab.api.kinds import SERVED
from kubenetlab.api.lab import NodeSettings
from kubenetlab.api.meta import LabelSelector, Resource, parse_selector, timestamp
from kubenetlab.api.pods import Pod
from kubenetlab.api.render import render
from kubenetlab.api.store import Cluster, deletion
from kubenetlab.controllers.support.termination import deletion_changes
from kubenetlab.errors import RequirementError, StoreError, os_error_text
from kubenetlab.lab import rundir
from kubenetlab.lab.agent.turns import run_synchronously
from kubenetlab.lab.apiserver.lab_api import LabApi
from kubenetlab.lab.apiserver.pod_logs import pod_log
from kubenetlab.lab.apiserver.statuses import (
    ApiFaultError,
    body_of,
    is_enabled,
    json_response,
    with_warnings,
)
from kubenetlab.lab.apiserver.watch import watch_events
from kubenetlab.lab.log import log
from kubenetlab.lab.store import recovery
from kubenetlab.lab.transport.accepting import accept
from kubenetlab.lab.transport.http import Answer, Handler, Stream, serve
from kubenetlab.programs.support.http import Request, Response

if TYPE_CHECKING:
    from kubenetlab.lab.agent.agent import Agent

MAX_STORED_RESPONSES: Final = 256
"""Number of responses that are kept to answer repeated requests."""
IMMORTAL_NAMESPACES: Final = ("default", "kube-system", "kube-public")
"""Namespaces that cannot be deleted.

Source: k8s.io/apiserver pkg/admission/plugin/namespace/lifecycle.
"""


class ResourcePath(Struct, frozen=True):
    """Path of a request: a kind, and optionally a namespace, an object and its subresource."""

    kind: type[Resource]
    namespace: str | None
    """Namespace; "" for an object without one, None for a list across all namespaces."""
    name: str
    subresource: str


class _ScaleSpec(Struct):
    replicas: int


class _Scale(Struct):
    """Body of a request to scale a workload: autoscaling/v1 Scale."""

    spec: _ScaleSpec


class ApiServer:
    """Server of the agent's store, for root and for the user that owns the lab."""

    def __init__(self, agent: Agent, listener: socket.socket) -> None:
        self._agent = agent
        self._listener = listener
        self._lab_api = LabApi(agent)
        self._responses: OrderedDict[str, Response] = OrderedDict()
        """Responses to the latest requests that change the store, by request id."""

    async def run(self) -> None:
        """Serve clients; never return."""
        await serve_clients(self._listener, self._handle)

    async def _handle(self, request: Request) -> Answer:
        """Answer one request.

        A change is on disk before it is acknowledged. A request that is repeated with the same id
        gets the stored response: a client repeats it when the agent dies before it answers.
        """
        is_change = request.method != "GET"
        request_id = request.headers.get("x-request-id", "") if is_change else ""
        if request_id in self._responses:
            return self._responses[request_id]
        before = self._agent.cluster
        try:
            if is_change:
                answer = run_synchronously(self._route(request))
                self._save(before)
            else:
                answer = await self._route(request)
        except ApiFaultError as error:
            answer = error.response
        except Exception:  # a bug: restore the store, so that no partial change is saved
            if is_change:
                self._agent.replace(before)
            raise
        answer = with_warnings(answer, recovery.warnings(self._agent.directory / rundir.STORE))
        if request_id and isinstance(answer, Response):
            self._responses[request_id] = answer
            while len(self._responses) > MAX_STORED_RESPONSES:
                self._responses.popitem(last=False)
        return answer

    def _save(self, before: Cluster) -> None:
        """Write the changes of a request to disk; if that fails, undo them.

        Raises ApiFaultError: 400 for objects that cannot be stored, 507 if the disk fails.
        """
        try:
            self._agent.save()
        except StoreError as error:
            self._agent.replace(before)
            raise ApiFaultError(400, "Invalid", f"nothing was changed: {error}") from None
        except OSError as error:
            self._agent.replace(before)
            message = (
                f"nothing was changed: the lab's store cannot be written: {os_error_text(error)}"
            )
            raise ApiFaultError(507, "InsufficientStorage", message) from None

    async def _route(self, request: Request) -> Answer:
        if (answer := await self._lab_api.handle(request)) is not None:
            return answer
        path = _parse_path(request.path)
        match request.method, path.name, path.subresource:
            case "GET", "", "":
                if is_enabled(request, "watch"):
                    return self._watch(path, request)
                return self._list(path, request)
            case "GET", _, "":
                return json_response(self._rendered(self._agent.cluster, self._get(path)))
            case "GET", _, "log":
                return await self._log(path, request)
            case "DELETE", name, "" if name:
                return self._delete(path)
            case "PUT", _, "restart":
                return self._restart(path)
            case "PUT", _, "scale":
                return self._scale(path, request)
        raise ApiFaultError(
            405, "MethodNotAllowed", f"the lab does not serve {request.method} {request.path}"
        )

    def _get(self, path: ResourcePath) -> Resource:
        obj = self._agent.cluster.get(path.kind, path.namespace or "", path.name)
        if obj is None:
            raise ApiFaultError(404, "NotFound", f'{path.kind.plural} "{path.name}" not found')
        return obj

    def _rendered(self, cluster: Cluster, obj: Resource) -> JsonObject:
        return render(cluster, obj, self._agent.clock.skew_s)

    def _list(self, path: ResourcePath, request: Request) -> Response:
        cluster = self._agent.cluster
        selector = _selector(request)
        items = [
            self._rendered(cluster, obj)
            for obj in cluster.all(path.kind, path.namespace)
            if selector.matches(obj.labels)
        ]
        body = {
            "apiVersion": path.kind.api_version,
            "kind": f"{path.kind.kind}List",
            "metadata": {"resourceVersion": str(cluster.revision)},
            "items": items,
        }
        return json_response(body)

    def _watch(self, path: ResourcePath, request: Request) -> Stream:
        return Stream(watch_events(self._agent, path.kind, path.namespace, _selector(request)))

    def _delete(self, path: ResourcePath) -> Response:
        obj = self._get(path)
        settings = (
            self._agent.cluster.get(NodeSettings, "", obj.name) if isinstance(obj, Node) else None
        )
        if settings is not None:
            self._agent.apply_changes([deletion(settings)])
            return _deleted(
                obj,
                settings.uid,
                f"{obj.title} is still part of the Cluster document; "
                "only the settings of its own document are deleted",
            )
        if isinstance(obj, (ClusterConfig, Node)):
            raise ApiFaultError(
                405,
                "MethodNotAllowed",
                f"{obj.title} comes from the Cluster document: change that and apply it",
            )
        if isinstance(obj, Namespace) and obj.name in IMMORTAL_NAMESPACES:
            raise ApiFaultError(
                403,
                "Forbidden",
                f'namespaces "{obj.name}" is forbidden: this namespace may not be deleted',
            )
        self._agent.apply_changes(deletion_changes(obj, self._agent.clock.now()))
        return _deleted(obj, obj.uid, "")

    def _restart(self, path: ResourcePath) -> Response:
        """Replace every pod of a workload by a new annotation, like `kubectl rollout restart`."""
        obj = self._get(path)
        if not isinstance(obj, Restartable):
            raise ApiFaultError(404, "NotFound", f"a {path.kind.kind} cannot be restarted")
        template = obj.spec.template
        annotations = {
            **template.metadata.annotations,
            RESTARTED_ANNOTATION: timestamp(time.time()),
        }
        template = structs.replace(
            template, metadata=structs.replace(template.metadata, annotations=annotations)
        )
        meta = structs.replace(obj.metadata, generation=obj.metadata.generation + 1)
        self._agent.apply_changes(
            [structs.replace(obj, metadata=meta, spec=structs.replace(obj.spec, template=template))]
        )
        return json_response(self._rendered(self._agent.cluster, self._get(path)))

    def _scale(self, path: ResourcePath, request: Request) -> Response:
        obj = self._get(path)
        if not isinstance(obj, Scalable):
            raise ApiFaultError(404, "NotFound", f"a {path.kind.kind} has no scale")
        replicas = body_of(request, _Scale).spec.replicas
        if not 0 <= replicas <= MAX_REPLICAS:
            raise ApiFaultError(
                422,
                "Invalid",
                f"spec.replicas: expected a whole number from 0 to {MAX_REPLICAS}, "
                f"found {replicas}",
            )
        before = obj.spec.replicas
        change = structs.replace(obj, spec=structs.replace(obj.spec, replicas=replicas))
        cluster, states = controllers.run(
            self._agent.cluster.with_changes([change]),
            self._agent.controller_states,
            self._agent.clock.now(),
        )
        if replicas > before:
            try:
                self._agent.require_capacity(cluster, self._agent.cluster)
            except RequirementError as error:
                raise ApiFaultError(507, "InsufficientStorage", str(error)) from None
        self._agent.replace(cluster, states)
        return json_response(
            {
                "apiVersion": "autoscaling/v1",
                "kind": "Scale",
                "metadata": {"name": obj.name, "namespace": obj.namespace},
                "spec": {"replicas": replicas},
                "status": {"replicas": before},
            }
        )

    async def _log(self, path: ResourcePath, request: Request) -> Answer:
        pod = self._get(path)
        if not isinstance(pod, Pod):
            raise ApiFaultError(404, "NotFound", f"a {path.kind.kind} has no log")
        return await pod_log(self._agent, pod, request)


async def serve_clients(listener: socket.socket, handler: Handler) -> None:
    """Serve the API's clients, for root and the lab's owner alone; never return."""
    loop = asyncio.get_running_loop()
    connections: set[asyncio.Task[None]] = set()
    while True:
        connection = await accept(listener)
        _, user, _ = struct.unpack(
            "iii", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        )
        if user != os.geteuid():
            connection.close()
            continue
        task = loop.create_task(serve(connection, handler))
        connections.add(task)
        task.add_done_callback(connections.discard)


async def refuse_clients(listener: socket.socket, lab: str, error: StoreError) -> None:
    """Answer every request with an error, for a lab whose store is unreadable; never return."""
    log(f"the store cannot be read, so nothing can be shown or changed: {error}")
    message = (
        f"no store of lab {lab} can be read: {error}; "
        "its pods continue to run, but nothing can be shown or changed"
    )
    response = ApiFaultError(
        503, "ServiceUnavailable", f"{message}\n  → kubenetlab down --lab {lab}, then up"
    ).response

    async def refuse(request: Request) -> Answer:
        return response

    await serve_clients(listener, refuse)


def _parse_path(path: str) -> ResourcePath:
    """Parse a path such as `/apis/apps/v1/namespaces/default/deployments/web/scale`.

    Raises ApiFaultError (404) for a path without a served kind.
    """
    parts = path.strip("/").split("/")
    version, rest = ("v1", parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
    namespace = None
    if len(rest) > 2 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource = (*rest, "", "", "")[:3]
    kind = next(
        (kind for kind in SERVED if kind.plural == plural and kind.api_version == version), None
    )
    if kind is None or len(rest) > 3:
        raise ApiFaultError(404, "NotFound", "the server could not find the requested resource")
    if not kind.is_namespaced:
        namespace = "" if name else None
    return ResourcePath(kind, namespace, name, subresource)


def _selector(request: Request) -> LabelSelector:
    try:
        return parse_selector(request.query.get("labelSelector", ""))
    except ValueError as error:
        raise ApiFaultError(400, "BadRequest", f"unable to parse requirement: {error}") from None


def _deleted(obj: Resource, uid: str, message: str) -> Response:
    """Return the response to a deletion. `uid` is that of the deleted object."""
    details = {"name": obj.name, "kind": obj.plural, "uid": uid}
    note = {"message": message} if message else {}
    return json_response(
        {"apiVersion": "v1", "kind": "Status", "status": "Success", **note, "details": details}
    )
