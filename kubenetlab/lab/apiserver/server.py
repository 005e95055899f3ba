"""The API on the lab's socket: Kubernetes' paths and verbs for its objects, and a group of the lab's own for the rest.

    GET    /api/v1/namespaces/default/pods/web      also lists, `?watch=true`, `?labelSelector=`
    DELETE /apis/apps/v1/namespaces/default/deployments/web
    PUT    /apis/apps/v1/namespaces/default/deployments/web/scale
    GET    /api/v1/namespaces/default/pods/web/log
    *      /apis/kubenetlab.dev/v1alpha1/…          see lab_api.py

Errors are Status objects. Source: Kubernetes API concepts (kubernetes.io/docs/reference/using-api/api-concepts).
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct, structs

from kubenetlab.api.apps import MAX_REPLICAS, RESTARTED_ANNOTATION, Restartable, Scalable
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.core import Namespace, Node
from kubenetlab.api.kinds import SERVED
from kubenetlab.api.lab import NodeSettings
from kubenetlab.api.meta import LabelSelector, Resource, parse_selector, timestamp
from kubenetlab.api.pods import Pod
from kubenetlab.api.render import render
from kubenetlab.api.store import Cluster, deletion
from kubenetlab.controllers.termination import terminated
from kubenetlab.errors import RequirementError, StoreError, refusal
from kubenetlab.lab import rundir
from kubenetlab.lab.agent.log_files import ENDED_LOGS
from kubenetlab.lab.agent.turns import at_once
from kubenetlab.lab.apiserver.lab_api import LabApi
from kubenetlab.lab.apiserver.statuses import ApiFaultError, body_of, number_of, with_warnings
from kubenetlab.lab.log import log
from kubenetlab.lab.runtime.container_logs import LogPart
from kubenetlab.lab.store import recovery
from kubenetlab.lab.transport.accepting import accept
from kubenetlab.lab.transport.http import Answer, Handler, Stream, serve
from kubenetlab.programs.http import Request, Response

if TYPE_CHECKING:
    from kubenetlab.lab.agent.agent import Agent

REMEMBERED_REQUESTS = 256
FOLLOW_S = 0.1
"""How often a log that is followed is looked at."""
_YES = ("true", "1")
_LOST: Final = f"is not kept any more: a lab keeps the logs of the last {ENDED_LOGS} containers that have ended"
IMMORTAL_NAMESPACES = ("default", "kube-system", "kube-public")
"""Source: k8s.io/apiserver pkg/admission/plugin/namespace/lifecycle."""


class ResourcePath(Struct, frozen=True):
    """What a path names: a kind, perhaps a namespace, perhaps one object and a part of it."""

    kind: type[Resource]
    namespace: str | None
    name: str
    part: str


class _ScaleSpec(Struct):
    replicas: int


class _Scale(Struct):
    """The body of a request to scale, autoscaling/v1 Scale."""

    spec: _ScaleSpec


class ApiServer:
    """Serves the agent's store, for root and the lab's owner alone."""

    def __init__(self, agent: Agent, listener: socket.socket) -> None:
        self._agent = agent
        self._listener = listener
        self._lab_api = LabApi(agent)
        self._answered: OrderedDict[str, Response] = OrderedDict()
        """What was answered to the latest requests that change something, by their ids."""

    async def run(self) -> None:
        await serve_clients(self._listener, self._handle)

    async def _handle(self, request: Request) -> Answer:
        """One request; a change that was made already is only told again. Who hears of a change may rely on it: it is written by then."""
        is_change = request.method != "GET"
        number = request.headers.get("x-request-id", "") if is_change else ""
        if number in self._answered:
            return self._answered[number]
        before = self._agent.cluster
        try:
            if is_change:
                answer = at_once(self._route(request))
                self._save(before)
            else:
                answer = await self._route(request)
        except ApiFaultError as fault:
            answer = fault.response
        except Exception:  # a mistake of ours: nothing that is half done is stored
            if is_change:
                self._agent.replace(before)
            raise
        answer = with_warnings(answer, recovery.warnings(self._agent.directory / rundir.STORE))
        if number and isinstance(answer, Response):
            self._answered[number] = answer
            while len(self._answered) > REMEMBERED_REQUESTS:
                self._answered.popitem(last=False)
        return answer

    def _save(self, before: Cluster) -> None:
        """Writes what a request has changed; what cannot be written is not done."""
        try:
            self._agent.save()
        except StoreError as error:
            self._agent.replace(before)
            raise ApiFaultError(400, "Invalid", f"nothing was changed: {error}") from None
        except OSError as error:
            self._agent.replace(before)
            message = f"nothing was changed: the lab's store cannot be written: {refusal(error)}"
            raise ApiFaultError(507, "InsufficientStorage", message) from None

    async def _route(self, request: Request) -> Answer:
        if (own := await self._lab_api.handle(request)) is not None:
            return own
        place = _place(request.path)
        match request.method, place.name, place.part:
            case "GET", "", "":
                return (
                    self._watch(place, request)
                    if request.query.get("watch") in _YES
                    else self._list(place, request)
                )
            case "GET", _, "":
                return _json(self._rendered(self._agent.cluster, self._get(place)))
            case "GET", _, "log":
                return await self._log(place, request)
            case "DELETE", name, "" if name:
                return self._delete(place)
            case "PUT", _, "restart":
                return self._restart(place)
            case "PUT", _, "scale":
                return self._scale(place, request)
        raise ApiFaultError(
            405, "MethodNotAllowed", f"the lab does not serve {request.method} {request.path}"
        )

    def _get(self, place: ResourcePath) -> Resource:
        found = self._agent.cluster.get(place.kind, place.namespace or "", place.name)
        if found is None:
            raise ApiFaultError(404, "NotFound", f'{place.kind.plural} "{place.name}" not found')
        return found

    def _rendered(self, cluster: Cluster, obj: Resource) -> dict[str, Any]:
        return render(cluster, obj, self._agent.clock.skew_s)

    def _list(self, place: ResourcePath, request: Request) -> Response:
        cluster = self._agent.cluster
        wanted = _selector(request)
        items = [
            self._rendered(cluster, obj)
            for obj in cluster.all(place.kind, place.namespace)
            if wanted.matches(obj.labels)
        ]
        body = {
            "apiVersion": place.kind.api_version,
            "kind": f"{place.kind.kind}List",
            "metadata": {"resourceVersion": str(cluster.revision)},
            "items": items,
        }
        return _json(body)

    def _watch(self, place: ResourcePath, request: Request) -> Stream:
        return Stream(self._events(place, _selector(request)))

    async def _events(self, place: ResourcePath, wanted: LabelSelector) -> AsyncIterator[bytes]:
        """Every change of a kind as it comes, after all that is there; a bookmark stands between the two."""
        known: Mapping[tuple[str, str], Resource] = {}
        is_first = True
        with self._agent.watchers.one() as changed:
            while True:
                changed.clear()
                cluster = self._agent.cluster
                events = sorted(
                    _events(cluster.news(place.kind, known), place.namespace, wanted),
                    key=lambda event: event[0] != "DELETED",
                )
                known = cluster.keyed(place.kind)
                lines = [
                    msgspec.json.encode({"type": kind, "object": self._rendered(cluster, obj)})
                    + b"\n"
                    for kind, obj in events
                ]
                if is_first:
                    meta = {
                        "resourceVersion": str(cluster.revision),
                        "annotations": {"k8s.io/initial-events-end": "true"},
                    }
                    lines.append(
                        msgspec.json.encode(
                            {
                                "type": "BOOKMARK",
                                "object": {"kind": place.kind.kind, "metadata": meta},
                            }
                        )
                        + b"\n"
                    )
                    is_first = False
                if lines:
                    yield b"".join(lines)
                await changed.wait()

    def _delete(self, place: ResourcePath) -> Response:
        obj = self._get(place)
        settings = (
            self._agent.cluster.get(NodeSettings, "", obj.name) if isinstance(obj, Node) else None
        )
        if settings is not None:
            self._agent.learn([deletion(settings)])
            return _deleted(
                obj,
                settings.uid,
                f"{obj.title} stays, without what its own document said: it comes from the Cluster document",
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
        self._agent.learn(terminated(obj, self._agent.clock.now()))
        return _deleted(obj, obj.uid, "")

    def _restart(self, place: ResourcePath) -> Response:
        """As `kubectl rollout restart`: a template that differs by a time only, so that every pod is replaced."""
        obj = self._get(place)
        if not isinstance(obj, Restartable):
            raise ApiFaultError(404, "NotFound", f"a {place.kind.kind} cannot be restarted")
        template = obj.spec.template
        annotations = {
            **template.metadata.annotations,
            RESTARTED_ANNOTATION: timestamp(time.time()),
        }
        template = structs.replace(
            template, metadata=structs.replace(template.metadata, annotations=annotations)
        )
        meta = structs.replace(obj.metadata, generation=obj.metadata.generation + 1)
        self._agent.learn(
            [structs.replace(obj, metadata=meta, spec=structs.replace(obj.spec, template=template))]
        )
        return _json(self._rendered(self._agent.cluster, self._get(place)))

    def _scale(self, place: ResourcePath, request: Request) -> Response:
        obj = self._get(place)
        if not isinstance(obj, Scalable):
            raise ApiFaultError(404, "NotFound", f"a {place.kind.kind} has no scale")
        replicas = body_of(request, _Scale).spec.replicas
        if not 0 <= replicas <= MAX_REPLICAS:
            raise ApiFaultError(
                422,
                "Invalid",
                f"spec.replicas: expected a whole number from 0 to {MAX_REPLICAS}, found {replicas}",
            )
        before = obj.spec.replicas
        change = structs.replace(obj, spec=structs.replace(obj.spec, replicas=replicas))
        trying = self._agent.controllers.copy()
        cluster, _ = trying.run(self._agent.cluster.with_changes([change]), self._agent.clock.now())
        if replicas > before:
            try:
                self._agent.check_room(cluster, self._agent.cluster)
            except RequirementError as error:
                raise ApiFaultError(507, "InsufficientStorage", str(error)) from None
        self._agent.replace(cluster, trying)
        return _json(
            {
                "apiVersion": "autoscaling/v1",
                "kind": "Scale",
                "metadata": {"name": obj.name, "namespace": obj.namespace},
                "spec": {"replicas": replicas},
                "status": {"replicas": before},
            }
        )

    async def _log(self, place: ResourcePath, request: Request) -> Answer:
        pod = self._get(place)
        if not isinstance(pod, Pod):
            raise ApiFaultError(404, "NotFound", f"a {place.kind.kind} has no log")
        names = [container.name for container in (*pod.spec.containers, *pod.spec.init_containers)]
        container = request.query.get("container") or names[0]
        if container not in names:
            raise ApiFaultError(
                400,
                "BadRequest",
                f"container {container} is not valid for pod {pod.name}; it has: {', '.join(names)}",
            )
        status = pod.container_status(container)
        if status is None or (
            status.state.waiting is not None
            and status.restart_count == 0
            and status.last_state.terminated is None
        ):
            reason = (
                status.state.waiting.reason if status and status.state.waiting else "it has no node"
            )
            raise ApiFaultError(
                400,
                "BadRequest",
                f'container "{container}" in pod "{pod.name}" is waiting to start: {reason}',
            )
        last, since = _count(request, "tailLines"), _since(request)
        if request.query.get("previous") in _YES:
            piece = await self._lab_api.logs(pod, container, "previous")
            if piece is None:
                raise ApiFaultError(
                    400,
                    "BadRequest",
                    f'previous terminated container "{container}" in pod "{pod.name}" not found',
                )
        elif request.query.get("follow") in _YES:
            return Stream(
                self._following(pod, container, status.restart_count, last, since),
                "text/plain; charset=utf-8",
            )
        else:
            piece = await self._lab_api.logs(pod, container)
        answer = Response(200, _text(piece, last, since))
        return (
            answer
            if piece is not None
            else with_warnings(
                answer, [f"the log of container {container} in pod {pod.name} {_LOST}"]
            )
        )

    async def _following(
        self, pod: Pod, container: str, attempt: int, last: int | None, since: float | None
    ) -> AsyncIterator[bytes]:
        """The log of a container's run, and what comes, until the run has ended."""
        end = 0
        while True:
            now = self._agent.cluster.get(Pod, pod.namespace, pod.name)
            is_over = now is None or now.uid != pod.uid or _has_ended(now, container, attempt)
            piece = await self._lab_api.logs(
                pod, container, attempt, after=end, is_going_on=not is_over
            )
            if piece is not None and piece.lines:
                yield _text(piece, last, since)
            if is_over:
                return
            if piece is not None:
                end, last, since = piece.end, None, None
            await asyncio.sleep(FOLLOW_S)


async def serve_clients(listener: socket.socket, handler: Handler) -> None:
    """Serve the API's clients, for root and the lab's owner alone; never returns."""
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
    """Answer every request of a lab of which no store can be read; never returns."""
    log(f"nothing can be shown or changed any more: {error}")
    message = f"no store of lab {lab} can be read: {error}; its pods go on running, but nothing can be shown or changed"
    fault = ApiFaultError(
        503, "ServiceUnavailable", f"{message}\n  → kubenetlab down --lab {lab}, then up"
    )

    async def refuse(request: Request) -> Answer:
        return fault.response

    await serve_clients(listener, refuse)


def _has_ended(pod: Pod, container: str, attempt: int) -> bool:
    """True when a run of a container is over, whether another follows or not."""
    status = pod.container_status(container)
    if status is None or status.restart_count != attempt or status.state.terminated is not None:
        return True
    return status.state.running is None and status.last_state.terminated is not None


def _since(request: Request) -> float | None:
    """Return from which moment on a log is asked for, in seconds since 1970: `sinceSeconds` or `sinceTime`."""
    seconds, moment = number_of(request, "sinceSeconds"), request.query.get("sinceTime")
    if seconds is not None and moment is not None:
        raise ApiFaultError(
            400, "BadRequest", "at most one of sinceTime and sinceSeconds may be specified"
        )
    if moment is None:
        return time.time() - seconds if seconds is not None else None
    try:
        found = datetime.fromisoformat(moment)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ApiFaultError(
            400,
            "BadRequest",
            f"sinceTime: expected a time such as 2026-01-31T12:00:00Z, found {moment}",
        ) from None


def _text(piece: LogPart | None, last: int | None, since: float | None = None) -> bytes:
    """Lines of a log; of `last` ones only the last, and only what was written `since` a moment."""
    if piece is not None and since is not None:
        piece = piece.since(since)
    lines = piece.lines if piece is not None else []
    return "".join(
        f"{line}\n" for line in (lines if last is None else lines[max(0, len(lines) - last) :])
    ).encode()


def _count(request: Request, name: str) -> int | None:
    """A parameter that is a number of things."""
    value = number_of(request, name)
    if value is not None and value != int(value):
        raise ApiFaultError(400, "BadRequest", f"{name}: expected a whole number, found {value:g}")
    return int(value) if value is not None else None


def _place(path: str) -> ResourcePath:
    """`/apis/apps/v1/namespaces/default/deployments/web/scale` and its kin."""
    parts = path.strip("/").split("/")
    version, rest = ("v1", parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
    namespace = None
    if len(rest) > 2 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    plural, name, part = (*rest, "", "", "")[:3]
    kind = next(
        (kind for kind in SERVED if kind.plural == plural and kind.api_version == version), None
    )
    if kind is None or len(rest) > 3:
        raise ApiFaultError(404, "NotFound", "the server could not find the requested resource")
    return ResourcePath(kind, namespace if kind.is_namespaced else "" if name else None, name, part)


def _selector(request: Request) -> LabelSelector:
    try:
        return parse_selector(request.query.get("labelSelector", ""))
    except ValueError as error:
        raise ApiFaultError(400, "BadRequest", f"unable to parse requirement: {error}") from None


def _json(body: Any, code: int = 200) -> Response:
    return Response(code, msgspec.json.encode(body), "application/json")


def _deleted(obj: Resource, uid: str, message: str) -> Response:
    """`uid` is of what goes."""
    details = {"name": obj.name, "kind": obj.plural, "uid": uid}
    told = {"message": message} if message else {}
    return _json(
        {"apiVersion": "v1", "kind": "Status", "status": "Success", **told, "details": details}
    )


def _events(
    news: Iterable[tuple[Any, Any]], namespace: str | None, wanted: LabelSelector
) -> Iterator[tuple[str, Resource]]:
    """What a watcher is told who sees one namespace, or all, and of that what a selector matches."""

    def sees(obj: Resource | None) -> bool:
        return obj is not None and namespace in (None, obj.namespace) and wanted.matches(obj.labels)

    for before, after in news:
        if sees(after):
            yield "MODIFIED" if sees(before) else "ADDED", after
        elif sees(before):
            yield "DELETED", before
