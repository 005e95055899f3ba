"""App worker: runs the built-in programs of one or more nodes in one event loop.

Their sockets are opened in the namespaces of the pods. The worker survives the agent, because its
control socket belongs to init. A listening socket would keep the namespace of a dead pod alive, so
the worker watches the pause process of each pod, and closes the pod's sockets when it exits.
"""

from __future__ import annotations

import asyncio
import socket
import sys

from kubenetlab.kernel.processes.identity import Process
from kubenetlab.kernel.syscalls import open_namespace
from kubenetlab.lab.context import LabContext
from kubenetlab.lab.messages.app_worker import (
    AppWorkerEvent,
    ForgetSandbox,
    LogLines,
    NoLog,
    NotifyProgram,
    Ping,
    ProgramNotified,
    ReadLog,
    RunReport,
    StartProgram,
    StopProgram,
    WorkerStarted,
)
from kubenetlab.lab.runtime.container_instances import ContainerInstance, PodInstance
from kubenetlab.lab.transport.handlers import Handlers
from kubenetlab.lab.transport.protocol import Done
from kubenetlab.lab.transport.server import RpcServer

ENDED_LOGS = 256
"""Number of deleted pods whose logs are kept, so that users can see why they ended."""


class Worker:
    """Pods of one or more nodes."""

    def __init__(self, listener: socket.socket, name: str) -> None:
        """Create a worker without pods.

        name: of this process, for messages.
        """
        self._home = open_namespace("net")
        self._pods: dict[str, PodInstance] = {}
        self._ended: dict[str, dict[str, list[str]]] = {}
        """Logs of deleted pods, by sandbox and container."""
        handlers = Handlers(
            name,
            StartProgram.handled_by(self._start),
            NotifyProgram.handled_by(self._notify),
            StopProgram.handled_by(self._stop),
            ForgetSandbox.handled_by(self._forget_sandbox),
            ReadLog.handled_by(self._read_log),
            Ping.handled_by(lambda _: Done()),
        )
        self._server = RpcServer[AppWorkerEvent](listener, handlers, self._greeting)

    async def run(self) -> None:
        """Serve one agent after another; never return."""
        await self._server.run()

    def _greeting(self) -> list[AppWorkerEvent]:
        """Return what a new agent has to know."""
        runs = (run for pod in self._pods.values() for run in pod.runs.values())
        return [WorkerStarted(tuple(run.report for run in runs))]

    def _start(self, request: StartProgram) -> RunReport:
        """Start a program, or update a running one; return the report of the run."""
        netns, name, attempt = request.netns, request.container, request.attempt
        pod = self._pods.get(netns)
        if pod is None or pod.process.id != request.sandbox:
            pod = self._add(PodInstance(netns, Process(request.sandbox), request.pod, self._home))
        run = pod.runs.get(name)
        if run is not None and run.attempt != attempt:
            run.stop()
            pod.former_runs[name] = run
        is_new = run is None or run.attempt != attempt
        if run is None or is_new:
            run = pod.runs[name] = ContainerInstance(pod, name, attempt, self._report_end)
        try:
            run.update(request.program, request.options, request.listeners)
        except ProcessLookupError:  # not a failure of the program: the sandbox has exited
            self._forget(netns)
            raise
        except OSError as error:
            run.fail(error.strerror or str(error))
            return run.report
        if is_new:
            run.start_main()
        if request.is_stopping:
            run.signal_termination()
        return run.report

    def _add(self, pod: PodInstance) -> PodInstance:
        """Add a pod in place of an earlier one in the same sandbox, and watch its pause process."""
        self._forget(pod.netns)
        self._pods[pod.netns] = pod
        asyncio.get_running_loop().add_reader(pod.process.pidfd, self._on_pause_exit, pod)
        return pod

    def _on_pause_exit(self, pod: PodInstance) -> None:
        if self._pods.get(pod.netns) is pod:
            self._forget(pod.netns)

    def _forget_sandbox(self, request: ForgetSandbox) -> Done:
        self._forget(request.netns)
        return Done()

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

    def _run_of(self, netns: str, container: str) -> ContainerInstance | None:
        pod = self._pods.get(netns)
        return pod.runs.get(container) if pod is not None else None

    def _notify(self, request: NotifyProgram) -> ProgramNotified:
        """Pass events to a program."""
        run = self._run_of(request.netns, request.container)
        if run is not None:
            for event in request.events:
                run.notify(event)
        return ProgramNotified(run is not None)

    def _stop(self, request: StopProgram) -> Done:
        run = self._run_of(request.netns, request.container)
        if run is not None:
            run.stop()
        return Done()

    def _read_log(self, request: ReadLog) -> LogLines | NoLog:
        """Return the end of a log; that of a deleted pod as long as it is kept."""
        netns, container, after = request.netns, request.container, request.after
        if (run := self._selected_run(request)) is not None:
            new_lines = max(0, run.log_end - max(0, after))
            return LogLines(list(run.log)[max(0, len(run.log) - new_lines) :], run.log_end)
        ended = self._ended.get(netns, {}).get(container)
        if ended is None or request.selection == "previous":
            return NoLog()
        return LogLines(ended[after:], len(ended))

    def _selected_run(self, request: ReadLog) -> ContainerInstance | None:
        """Return the run whose log is requested."""
        pod = self._pods.get(request.netns)
        known = (pod.runs, pod.former_runs) if pod is not None else ()
        runs = [runs[request.container] for runs in known if request.container in runs]
        if isinstance(request.selection, int):
            return next((run for run in runs if run.attempt == request.selection), None)
        index = {"latest": 0, "previous": 1}[request.selection]
        return runs[index] if index < len(runs) else None

    def _report_end(self, run: ContainerInstance) -> None:
        """Report the end of a run to the agent, if there is one."""
        self._server.notify(run.report)


def main(context: LabContext, number: int) -> None:
    """Run a worker; never return while the lab is up."""
    from kubenetlab.lab import rundir

    worker = Worker(context.listeners[rundir.worker_socket(number)], f"app worker {number}")
    sys.stdout.flush()
    asyncio.run(worker.run())
