"""App worker: runs the built-in programs of one or more nodes in one event loop.

Their sockets are opened in the namespaces of the pods. The worker survives the agent, because its
control socket belongs to init. A listening socket would keep the namespace of a dead pod alive, so
the worker watches the pause process of each pod, and closes the pod's sockets when it exits.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time

import msgspec

from kubenetlab.hoststate.programs import ListenPort
from kubenetlab.kernel.processes.identity import Process, ProcessId
from kubenetlab.kernel.syscalls import open_namespace
from kubenetlab.lab.context import LabContext
from kubenetlab.lab.runtime.container_instances import ContainerInstance, PodInstance
from kubenetlab.lab.runtime.container_logs import RunSelection
from kubenetlab.lab.transport.accepting import accept
from kubenetlab.lab.transport.json_channel import Channel
from kubenetlab.lab.transport.json_frames import Message

ENDED_LOGS = 256
"""Number of deleted pods whose logs are kept, so that users can see why they ended."""


class Worker:
    """Pods of one or more nodes."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._home = open_namespace("net")
        self._pods: dict[str, PodInstance] = {}
        self._ended: dict[str, dict[str, list[str]]] = {}
        """Logs of deleted pods, by sandbox and container."""
        self._agent: Channel | None = None

    async def run(self) -> None:
        """Serve one agent after another; never return."""
        while True:
            connection = await accept(self._listener)
            self._agent = agent = Channel(connection)
            try:
                agent.send(
                    {
                        "event": "hello",
                        "runs": [
                            _report(run) for pod in self._pods.values() for run in pod.runs.values()
                        ],
                    }
                )
                async for request in agent.receive():
                    agent.send({"answers": request.get("id", 0), **self._serve(request)})
            finally:
                self._agent = None
                agent.close()

    def _serve(self, request: Message) -> Message:
        """Return the reply to a request."""
        try:
            match request["do"]:
                case "run":
                    return self._start(request)
                case "tell":
                    return self._notify(request["netns"], request["container"], request["news"])
                case "stop":
                    return self._stop(request["netns"], request["container"])
                case "forget":
                    self._forget(request["netns"])
                    return {"ok": True}
                case "logs":
                    return self._logs(
                        request["netns"], request["container"], request["which"], request["after"]
                    )
                case "nothing":
                    return {"ok": True}
            return {"error": f"unknown request {request['do']}"}
        except (KeyError, OSError, ValueError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def _start(self, request: Message) -> Message:
        """Start a program, or update a running one; return the report of the run."""
        netns, name, attempt = request["netns"], request["container"], request["attempt"]
        sandbox = ProcessId(*request["sandbox"])
        pod = self._pods.get(netns)
        if pod is None or pod.process.id != sandbox:
            files = request["hosts"], request["resolv_conf"]
            pod = self._add(
                PodInstance(
                    netns,
                    Process(sandbox),
                    request["identity"],
                    request["versions"],
                    *files,
                    self._home,
                )
            )
        run = pod.runs.get(name)
        if run is not None and run.attempt != attempt:
            run.stop()
            pod.former_runs[name] = run
        is_new = run is None or run.attempt != attempt
        if run is None or is_new:
            run = pod.runs[name] = ContainerInstance(pod, name, attempt, self._report_end)
        listeners = [msgspec.convert(entry, ListenPort) for entry in request["listeners"]]
        try:
            run.update(request["program"], request["options"], listeners)
        except ProcessLookupError:  # not a failure of the program: the sandbox has exited
            self._forget(netns)
            raise
        except OSError as error:
            run.note(f"Error: {error.strerror}")
            run.stop()
            run.outcome = {
                "state": "failed",
                "exit_code": 1,
                "message": error.strerror or str(error),
                "at": time.time(),
            }
            return _report(run)
        if is_new:
            run.start_main()
            run.outcome = {
                "state": "running",
                "at": time.time(),
                "ends_later": run.shutdown_delay_s > 0,
            }
        if request["is_stopping"]:
            run.signal_termination()
        return _report(run)

    def _add(self, pod: PodInstance) -> PodInstance:
        """Add a pod in place of an earlier one in the same sandbox, and watch its pause process."""
        self._forget(pod.netns)
        self._pods[pod.netns] = pod
        asyncio.get_running_loop().add_reader(pod.process.pidfd, self._on_pause_exit, pod)
        return pod

    def _on_pause_exit(self, pod: PodInstance) -> None:
        if self._pods.get(pod.netns) is pod:
            self._forget(pod.netns)

    def _forget(self, netns: str) -> None:
        """Stop the programs of a pod; keep their logs."""
        pod = self._pods.pop(netns, None)
        if pod is not None:
            for run in pod.runs.values():
                run.stop()
            self._ended[netns] = {name: list(run.log) for name, run in pod.runs.items()}
            while len(self._ended) > ENDED_LOGS:
                del self._ended[next(iter(self._ended))]
            asyncio.get_running_loop().remove_reader(pod.process.pidfd)
            pod.process.close()

    def _notify(self, netns: str, container: str, events: list[Message]) -> Message:
        """Pass events to a program; reply with `ok` false if it does not run."""
        pod = self._pods.get(netns)
        run = pod.runs.get(container) if pod else None
        if run is None:
            return {"ok": False}
        for event in events:
            run.notify(event)
        return {"ok": True}

    def _stop(self, netns: str, container: str) -> Message:
        pod = self._pods.get(netns)
        run = pod.runs.get(container) if pod else None
        if run is not None:
            run.stop()
        return {"ok": True}

    def _logs(self, netns: str, container: str, which: RunSelection, after: int) -> Message:
        """Return the lines of a run after the first `after`; an empty reply if no log is kept."""
        pod = self._pods.get(netns)
        runs = (
            [
                run
                for known in (pod.runs, pod.former_runs)
                if (run := known.get(container)) is not None
            ]
            if pod
            else []
        )
        index = {"latest": 0, "previous": 1}.get(which) if isinstance(which, str) else None
        selected = (
            runs[index : index + 1]
            if index is not None
            else [run for run in runs if run.attempt == which]
        )
        for run in selected:
            return {
                "lines": list(run.log)[max(0, len(run.log) - max(0, run.log_end - after)) :],
                "end": run.log_end,
            }
        ended = self._ended.get(netns, {}).get(container) if which != "previous" else None
        return {"lines": ended[after:], "end": len(ended)} if ended is not None else {}

    def _report_end(self, run: ContainerInstance) -> None:
        """Report the end of a run to the agent, if there is one."""
        if self._agent is not None:
            self._agent.send({"event": "run", **_report(run)})


def main(context: LabContext, number: int) -> None:
    """Run a worker; never return while the lab is up."""
    from kubenetlab.lab import rundir

    worker = Worker(context.listeners[rundir.worker_socket(number)])
    sys.stdout.flush()
    asyncio.run(worker.run())


def _report(run: ContainerInstance) -> Message:
    """Return the state of a run as the agent gets it."""
    return {
        "netns": run.pod.netns,
        "sandbox": run.pod.process.id,
        "container": run.container,
        "attempt": run.attempt,
        **run.outcome,
    }
