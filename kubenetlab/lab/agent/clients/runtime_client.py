"""Client for the programs of containers: app workers run the built-in ones, init real commands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from kubenetlab import programs
from kubenetlab.datapath.contexts import Context
from kubenetlab.hoststate.programs import ProgramRun
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab import rundir
from kubenetlab.lab.agent.clients.container_reports import ContainerReports, OnReports, SandboxOf
from kubenetlab.lab.agent.clients.log_files import LogFiles
from kubenetlab.lab.agent.clients.process_client import REPLACE_AFTER_S, ProcessClient
from kubenetlab.lab.log import log
from kubenetlab.lab.messages.app_worker import (
    AppWorkerEvent,
    ForgetSandbox,
    LogLines,
    NotifyProgram,
    Ping,
    ProgramNotified,
    ProgramPod,
    ReadLog,
    RunReport,
    RunSelection,
    StartProgram,
    StopProgram,
    WorkerStarted,
)
from kubenetlab.lab.runtime.container_logs import LogPart
from kubenetlab.lab.transport.protocol import RequestFailed, decoder_of
from kubenetlab.lab.transport.rpc import RpcClient
from kubenetlab.programs.kube_proxy_events import SyncEvent

OnLost = Callable[[list[str]], None]
"""Called with the sandboxes whose programs ended with their app worker."""


class RuntimeClient:
    """Starts and stops the programs of containers, and passes on reports of their states."""

    def __init__(
        self,
        directory: Path,
        workers: int,
        on_reports: OnReports,
        on_lost: OnLost,
        sandbox_of: SandboxOf,
    ) -> None:
        """Connect to the app workers and to init.

        directory: run directory of the lab.
        workers:   number of app workers.
        """
        self._on_lost = on_lost
        self._reports = ContainerReports(on_reports, sandbox_of)
        self._logs = LogFiles(directory)
        self._processes = ProcessClient(directory, self._reports, self._logs)
        self._workers = [
            RpcClient[AppWorkerEvent](
                f"app worker {number}",
                str(directory / rundir.worker_socket(number)),
                decoder_of(AppWorkerEvent),
                partial(self._receive_event, number),
                lambda: None,
            )
            for number in range(workers)
        ]
        self._worker_of_node: dict[str, int] = {}
        self._worker_of: dict[str, int] = {}
        """Sandbox → app worker that has opened its sockets."""
        self._node_of: dict[str, str] = {}
        """Sandbox → node."""
        self._closing: dict[asyncio.Task[None], str] = {}
        """Tasks that wait until a former sandbox holds no port → its node, "" if unknown."""

    @property
    def running(self) -> Mapping[tuple[str, str], int]:
        """Running containers: (sandbox, container) → attempt."""
        return self._reports.running

    async def adopt(self) -> None:
        """Learn from init and from the app workers which programs run already."""
        await self._processes.adopt()
        for worker in self._workers:
            await worker.call(Ping())  # the event WorkerStarted comes before the reply

    async def start(
        self,
        run: ProgramRun,
        sandbox: ProcessId,
        context: Context,
        environment: Callable[[], dict[str, str]],
    ) -> str | None:
        """Start a program when no former sandbox on its node can hold its ports any more.

        environment: returns the variables of a real command.
        Return an error of the lab. Return None if the program was started, or failed for a reason
        of its own, which is reported. Raises OSError if the container's log cannot be written.
        """
        self._node_of[run.netns] = context.node
        if closing := [task for task, node in self._closing.items() if node in ("", context.node)]:
            await asyncio.wait(closing)
        if programs.is_process(run.program):
            return await self._processes.start(run, sandbox, context, environment)
        request = StartProgram(
            run.netns,
            sandbox,
            run.container,
            run.attempt,
            run.program,
            run.options,
            run.listeners,
            ProgramPod(
                context.identity,
                tuple(context.versions),
                context.files.hosts,
                context.files.resolv_conf,
            ),
            run.is_stopping,
        )
        reply = await self._worker(run.netns, context.node).call(request)
        if isinstance(reply, RequestFailed):
            return reply.error
        self._reports.add(reply)
        return None

    async def notify(
        self, netns: str, container: str, node: str, events: Sequence[SyncEvent]
    ) -> bool:
        """Send events to a built-in program; return False if it does not run."""
        request = NotifyProgram(netns, container, tuple(events))
        reply = await self._worker(netns, node).call(request)
        return isinstance(reply, ProgramNotified) and reply.is_running

    def pid(self, netns: str, container: str) -> int | None:
        """Return the pid of a container that is a process of its own; None for any other."""
        return self._processes.pid(netns, container)

    async def stop(self, run: ProgramRun, node: str) -> None:
        """Stop a program; success if it has ended already."""
        self._reports.running.pop((run.netns, run.container), None)
        if not self._processes.stop(run):
            await self._worker(run.netns, node).call(StopProgram(run.netns, run.container))

    async def logs(
        self,
        netns: str,
        container: str,
        node: str,
        which: RunSelection = "latest",
        *,
        after: int = 0,
        is_running: bool = False,
    ) -> LogPart | None:
        """Return the log of a container's run behind `after`; None if there is no log.

        The log of a process is a file, that of a built-in program is in its app worker. Which
        worker that was is not known for a pod that is gone: all workers are asked then.
        """
        if self._logs.has_log(netns, container):
            return self._logs.read(netns, container, which, after, is_going_on=is_running)
        is_known = netns in self._worker_of
        for worker in (self._worker(netns, node),) if is_known else self._workers:
            reply = await worker.call(ReadLog(netns, container, which, after))
            if isinstance(reply, LogLines):
                return LogPart(reply.lines, reply.end)
        return None

    def forget(self, netns: str) -> None:
        """Drop a sandbox that is gone with its containers; the latest logs are kept."""
        self._logs.forget(netns)
        self._reports.forget(netns)
        exits = self._processes.forget(netns)
        number = self._worker_of.pop(netns, None)
        node = self._node_of.pop(netns, "")
        if number is not None or exits:
            worker = None if number is None else self._workers[number]
            task = asyncio.get_running_loop().create_task(self._close(netns, worker, exits))
            self._closing[task] = node
            task.add_done_callback(self._closing.pop)

    def acknowledge(self) -> None:
        """Let init drop the exits that were reported.

        Called when the store that the reports changed is on disk.
        """
        self._processes.acknowledge()

    async def _close(
        self,
        netns: str,
        worker: RpcClient[AppWorkerEvent] | None,
        exits: Mapping[str, asyncio.Event],
    ) -> None:
        """Return when a former sandbox holds no port any more, or after REPLACE_AFTER_S.

        A hostNetwork pod may be followed by one that listens on the same ports of the node.
        exits: the exits of its processes, by run.
        """
        try:
            async with asyncio.timeout(REPLACE_AFTER_S):
                if worker is not None:
                    await worker.call(ForgetSandbox(netns))
                for exited in exits.values():
                    await exited.wait()
        except TimeoutError:
            log(f"{netns}: a program of the former sandbox may still hold its ports")
        finally:
            self._processes.stop_waiting(exits)

    def _worker(self, netns: str, node: str) -> RpcClient[AppWorkerEvent]:
        """Return the app worker of a sandbox; a new sandbox gets the one of its node."""
        if netns not in self._worker_of:
            self._worker_of[netns] = self._worker_of_node.setdefault(
                node, len(self._worker_of_node) % len(self._workers)
            )
        return self._workers[self._worker_of[netns]]

    def _receive_event(self, number: int, event: AppWorkerEvent) -> None:
        """Pass on a report of an app worker, or compare the runs of a new one with the known."""
        match event:
            case RunReport():
                self._reports.add(event)
            case WorkerStarted():
                self._compare_runs(number, event.runs)

    def _compare_runs(self, number: int, runs: Sequence[RunReport]) -> None:
        """Learn the runs of a connected app worker, and report those that it has lost."""
        running = {(run.netns, run.container) for run in runs if run.outcome.state == "running"}
        lost = [
            key
            for key in self._reports.running
            if self._worker_of.get(key[0]) == number
            and key not in running
            and key not in self._processes
        ]
        for key in lost:
            del self._reports.running[key]
        for run in runs:
            self._worker_of[run.netns] = number
            self._reports.add(run)
        if lost:
            self._on_lost([netns for netns, _ in lost])
