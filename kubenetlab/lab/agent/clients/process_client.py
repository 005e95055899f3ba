"""Client of init for containers that are processes of their own: start, stop and track them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from msgspec import Struct, convert, structs

from kubenetlab.api.environment import expand
from kubenetlab.api.lab import ContainerReport
from kubenetlab.api.values.quantity import format_bytes
from kubenetlab.controllers.kubelet.containers import KILLED, OOM_KILLED
from kubenetlab.datapath.contexts import Context
from kubenetlab.hoststate.programs import ProgramOptions, ProgramRun
from kubenetlab.kernel.features.detection import has_command, no_such_command
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.kernel.processes.inheritance import CONTAINER_PATH
from kubenetlab.lab import rundir
from kubenetlab.lab.agent.clients.container_reports import ContainerReports
from kubenetlab.lab.agent.clients.log_files import LogFiles
from kubenetlab.lab.messages.app_worker import RunReport
from kubenetlab.lab.messages.init import (
    AcknowledgeExits,
    Command,
    CoreDns,
    InitEvent,
    ListProcesses,
    PodProcess,
    ProcessExited,
    SendSignal,
    SignalSent,
    StartContainer,
)
from kubenetlab.lab.runtime import container_logs
from kubenetlab.lab.transport.protocol import Message, Request, RequestFailed, decoder_of
from kubenetlab.lab.transport.rpc import RpcClient
from kubenetlab.programs import COMMAND
from kubenetlab.programs.command import CommandOptions

KILL_AFTER_S: Final = 30.0
"""Default time allowed for a process to exit after SIGTERM, in seconds."""
REPLACE_AFTER_S: Final = 1.0
"""Time allowed for the old process to exit before its replacement starts, in seconds."""
NOT_FOUND: Final = 127
"""Exit status of a command that does not exist, as shells report it."""


class _Process(Struct):
    """A process that init was asked to start."""

    run: str
    """Name of the process in requests to init and in its events."""
    sandbox: ProcessId
    pid: int = 0
    """Process ID for display, 0 until init has answered."""


class ProcessClient:
    """Processes of containers, by (sandbox, container).

    The answer that a process was started and the event that it has exited may arrive in either
    order: a process is recorded before init is asked for it.
    """

    def __init__(self, directory: Path, reports: ContainerReports, logs: LogFiles) -> None:
        """Connect to init.

        directory: run directory of the lab.
        """
        self._reports = reports
        self._logs = logs
        self._init = RpcClient[InitEvent](
            "init",
            str(directory / rundir.INIT_SOCKET),
            decoder_of(InitEvent),
            self._receive_event,
            self._resync,
        )
        self._token = os.urandom(4).hex()
        """Prefix of this agent's run names; those of its predecessors have another."""
        self._last_serial = 0
        self._processes: dict[tuple[str, str], _Process] = {}
        """Processes from the request to start them to the event of their exit."""
        self._awaited_exits: dict[str, asyncio.Event] = {}
        """Runs whose exit a task waits for; their exits are not reported."""
        self._kill_timers: dict[str, asyncio.TimerHandle] = {}
        """Runs that were sent SIGTERM → the timer that sends SIGKILL."""
        self._requests: set[asyncio.Task[object]] = set()
        """Requests whose replies are not needed, referenced until they are answered."""

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._processes

    def pid(self, netns: str, container: str) -> int | None:
        """Return the pid of a container's process; None if none is known to run."""
        process = self._processes.get((netns, container))
        return process.pid or None if process is not None else None

    async def adopt(self) -> None:
        """Learn from init which processes a former agent started, and which exits it missed."""
        await self._sync(is_first=True)

    async def start(
        self,
        run: ProgramRun,
        sandbox: ProcessId,
        context: Context,
        environment: Callable[[], dict[str, str]],
    ) -> str | None:
        """Start the process of a container, after the exit of the container's former process.

        environment: returns the variables of the process.
        Return an error, or None if the container was started or its command does not exist: that
        is a failure of the container. Raises OSError if its log cannot be written.
        """
        key = run.netns, run.container
        if (former := self._processes.get(key)) is not None:
            await self._end_and_wait(former.run)
            self._processes.pop(key, None)
        variables = environment()
        self._logs.begin_run(*key, run.attempt)
        program = _command(run.options, context, variables) if run.program == COMMAND else CoreDns()
        if isinstance(program, Command) and not _can_be_found(program):
            self._report_missing_command(run, sandbox, no_such_command(program.options.argv[0]))
            return None
        self._last_serial += 1
        name = f"{self._token}-{self._last_serial}"
        # Recorded before the request: the event of its exit may arrive before the reply is seen.
        process = self._processes[key] = _Process(name, sandbox)
        reply = await self._init.call(
            StartContainer(name, run.netns, sandbox, run.container, run.attempt, program)
        )
        if isinstance(reply, RequestFailed):
            if self._processes.get(key) is process:
                del self._processes[key]
            return reply.error
        process.pid = reply.pid
        self._reports.add(
            _started(PodProcess(name, run.program, run.netns, sandbox, run.container, run.attempt))
        )
        return None

    def stop(self, run: ProgramRun) -> bool:
        """Send SIGTERM to a container's process, and SIGKILL after its grace period.

        Return False if the container has no process.
        """
        process = self._processes.get((run.netns, run.container))
        if process is None:
            return False
        if process.run not in self._kill_timers:
            grace_s = float(run.options.get("grace_s", KILL_AFTER_S))
            self._kill_timers[process.run] = asyncio.get_running_loop().call_later(
                grace_s, self._signal, process.run, signal.SIGKILL
            )
            self._signal(process.run, signal.SIGTERM)
        return True

    def acknowledge(self) -> None:
        """Let init drop the exits that were reported.

        Called when the store that the reports changed is on disk.
        """
        if runs := self._reports.take_delivered():
            self._send(AcknowledgeExits(tuple(runs)))

    def forget(self, netns: str) -> dict[str, asyncio.Event]:
        """Drop the processes of a sandbox that is gone; return the event of the exit of each run.

        Call `stop_waiting` with the runs when their exits are not awaited any more.
        """
        keys = [key for key in self._processes if key[0] == netns]
        runs = [self._processes.pop(key).run for key in keys]
        return {run: self._awaited_exits.setdefault(run, asyncio.Event()) for run in runs}

    def stop_waiting(self, runs: Iterable[str]) -> None:
        """Wait no longer for the exits of these runs."""
        for run in runs:
            self._awaited_exits.pop(run, None)

    def _report_missing_command(self, run: ProgramRun, sandbox: ProcessId, message: str) -> None:
        """Log and report a container whose command does not exist."""
        self._logs.append(run.netns, run.container, f"{message}\n")
        outcome = ContainerReport(run.attempt, "failed", NOT_FOUND, message, time.time())
        self._reports.add(RunReport(run.netns, sandbox, run.container, outcome))

    async def _end_and_wait(self, run: str) -> None:
        """End a process and wait for its exit: its ports must be free for its replacement."""
        exited = self._awaited_exits.setdefault(run, asyncio.Event())
        for number, wait_s in ((signal.SIGTERM, REPLACE_AFTER_S), (signal.SIGKILL, KILL_AFTER_S)):
            reply = await self._init.call(SendSignal(run, int(number)))
            if not (isinstance(reply, SignalSent) and reply.is_running):
                break  # the process had exited before
            try:
                async with asyncio.timeout(wait_s):
                    await exited.wait()
                break
            except TimeoutError:
                continue
        self._awaited_exits.pop(run, None)

    def _signal(self, run: str, number: signal.Signals) -> None:
        """Have init send a signal: it reaps the process, so the pid cannot be another process's."""
        self._send(SendSignal(run, int(number)))

    def _send(self, request: Request[Message]) -> None:
        """Send a request whose reply is not needed."""
        self._requests.add(task := asyncio.get_running_loop().create_task(self._init.call(request)))
        task.add_done_callback(self._requests.discard)

    def _receive_event(self, event: InitEvent) -> None:
        if isinstance(event, ProcessExited) and not event.process.is_probe:
            self._record_exit(event, is_expected=self._is_current(event.process))

    def _is_current(self, process: PodProcess) -> bool:
        """Return True for the latest process of its container."""
        known = self._processes.get((process.netns, process.container))
        return known is not None and known.run == process.run

    def _record_exit(self, event: ProcessExited, *, is_expected: bool) -> None:
        """Report an exit, or acknowledge it at once if it is not to be reported.

        is_expected: False for a process that was replaced or whose sandbox is gone.
        """
        run, key = event.process.run, (event.process.netns, event.process.container)
        if (timer := self._kill_timers.pop(run, None)) is not None:
            timer.cancel()
        if (exited := self._awaited_exits.pop(run, None)) is not None:
            exited.set()
            is_expected = False
        if is_expected:
            self._processes.pop(key, None)
        if not is_expected or not self._reports.add(_exited(event, self._logs.path(*key))):
            self._send(AcknowledgeExits((run,)))

    def _resync(self) -> None:
        """Ask init for everything again: events may be lost, as the connection was broken."""
        self._requests.add(task := asyncio.get_running_loop().create_task(self._sync()))
        task.add_done_callback(self._requests.discard)

    async def _sync(self, *, is_first: bool = False) -> None:
        """Take over the processes and exits that init knows of.

        is_first: True if a former agent has started all of them.
        """
        reply = await self._init.call(ListProcesses())
        if isinstance(reply, RequestFailed):
            return
        for process in reply.processes:
            key = process.netns, process.container
            if process.is_probe or (key in self._processes and not self._is_current(process)):
                continue
            self._processes[key] = _Process(process.run, process.sandbox, process.pid)
            self._logs.record_run(*key, process.attempt)
            # The former agent may have been killed before it stored the start.
            self._reports.add(_started(process))
        for event in reply.exits:
            process, key = event.process, (event.process.netns, event.process.container)
            if is_first and key not in self._processes:
                self._logs.record_run(*key, process.attempt)
                self._record_exit(event, is_expected=True)
            else:
                self._record_exit(event, is_expected=self._is_current(process))


def _command(options: ProgramOptions, context: Context, environment: dict[str, str]) -> Command:
    """Return the command of a container in its pod."""
    command = convert(options, CommandOptions)
    argv = tuple(expand(word, environment) for word in command.argv)
    files = context.files
    return Command(
        structs.replace(command, argv=argv),
        files.hosts,
        files.resolv_conf,
        files.hostname,
        environment,
    )


def _can_be_found(command: Command) -> bool:
    """Return False if the name of the executable is in no directory of PATH."""
    name = command.options.argv[0] if command.options.argv else "/"
    return "/" in name or has_command(name, command.environment.get("PATH", CONTAINER_PATH))


def _started(process: PodProcess) -> RunReport:
    """Return the report of a process that has started."""
    outcome = ContainerReport(
        process.attempt, "running", at=time.time(), is_process=process.program == COMMAND
    )
    return RunReport(process.netns, process.sandbox, process.container, outcome)


def _exited(event: ProcessExited, log: Path) -> RunReport:
    """Return the report of a process that has exited; its message is the end of the log."""
    code = os.waitstatus_to_exitcode(event.status)
    message = container_logs.last_line(log) if code > 0 else f"{KILLED} {-code}" if code < 0 else ""
    oom_limit = event.oom_limit if code else 0
    if oom_limit:
        message = f"the container used more than its memory limit of {format_bytes(oom_limit)}"
    process = event.process
    outcome = ContainerReport(
        process.attempt,
        "exited",
        code if code >= 0 else 128 - code,
        message,
        event.at,
        reason=OOM_KILLED if oom_limit else "",
    )
    return RunReport(process.netns, process.sandbox, process.container, outcome, process.run)
