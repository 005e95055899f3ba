"""Client of init for containers that are processes of their own: start, stop and track them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from kubenetlab import programs
from kubenetlab.api.environment import expand
from kubenetlab.api.quantity import format_bytes
from kubenetlab.controllers.containers import KILLED, OOM_KILLED
from kubenetlab.datapath.contexts import Context
from kubenetlab.hoststate.programs import ProgramRun
from kubenetlab.kernel.features.detection import has_command, no_such_command
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.kernel.processes.inheritance import CONTAINER_PATH
from kubenetlab.lab import rundir
from kubenetlab.lab.agent.container_reports import ContainerReports
from kubenetlab.lab.agent.log_files import LogFiles
from kubenetlab.lab.runtime import container_logs
from kubenetlab.lab.transport.json_frames import Message
from kubenetlab.lab.transport.json_rpc import RpcClient

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
        self._init = RpcClient(
            "init", str(directory / rundir.INIT_SOCKET), self._receive_event, self._resync
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
        self._requests: set[asyncio.Task[Message]] = set()
        """Requests whose answers are not needed, referenced until they are answered."""

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
        labels = {
            "netns": run.netns,
            "sandbox": sandbox,
            "container": run.container,
            "attempt": run.attempt,
        }
        key = run.netns, run.container
        if (former := self._processes.get(key)) is not None:
            await self._end_and_wait(former.run)
            self._processes.pop(key, None)
        variables = environment()
        argv = [expand(word, variables) for word in run.options.get("argv", ())]
        path = variables.get("PATH", CONTAINER_PATH)
        self._logs.begin_run(*key, run.attempt)
        if argv and "/" not in argv[0] and not has_command(argv[0], path):
            self._report_missing_command(labels, no_such_command(argv[0]))
            return None
        arguments = {
            **labels,
            **run.options,
            "argv": argv,
            "hosts": context.files.hosts,
            "resolv_conf": context.files.resolv_conf,
            "identity": context.identity,
            "environment": variables,
        }
        self._last_serial += 1
        # Recorded before the request: the event of its exit may arrive before the answer is seen.
        process = self._processes[key] = _Process(f"{self._token}-{self._last_serial}", sandbox)
        answer = await self._init.call(
            do="spawn", run=process.run, role=run.program, sandbox=sandbox, arguments=arguments
        )
        if "error" in answer:
            if self._processes.get(key) is process:
                del self._processes[key]
            return str(answer["error"])
        process.pid = answer["pid"]
        self._reports.add(_started(labels, run.program))
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
            self._send(do="acknowledge", runs=runs)

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

    def _report_missing_command(self, labels: dict[str, Any], message: str) -> None:
        """Log and report a container whose command does not exist."""
        self._logs.append(labels["netns"], labels["container"], f"{message}\n")
        self._reports.add(
            {
                **labels,
                "state": "failed",
                "exit_code": NOT_FOUND,
                "message": message,
                "at": time.time(),
            }
        )

    async def _end_and_wait(self, run: str) -> None:
        """End a process and wait for its exit: its ports must be free for its replacement."""
        exited = self._awaited_exits.setdefault(run, asyncio.Event())
        for number, wait_s in ((signal.SIGTERM, REPLACE_AFTER_S), (signal.SIGKILL, KILL_AFTER_S)):
            answer = await self._init.call(do="signal", run=run, signal=int(number))
            if not answer.get("ok"):
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
        self._send(do="signal", run=run, signal=int(number))

    def _send(self, **request: Any) -> None:
        """Send a request whose answer is not needed."""
        self._requests.add(
            task := asyncio.get_running_loop().create_task(self._init.call(**request))
        )
        task.add_done_callback(self._requests.discard)

    def _receive_event(self, event: Message) -> None:
        if event["event"] == "exited" and not event["is_probe"]:
            self._record_exit(event, is_expected=self._is_current(event))

    def _is_current(self, event: Message) -> bool:
        """Return True if the event is about the latest process of its container."""
        process = self._processes.get((event["netns"], event["container"]))
        return process is not None and process.run == event["run"]

    def _record_exit(self, event: Message, *, is_expected: bool) -> None:
        """Report an exit, or acknowledge it at once if it is not to be reported.

        is_expected: False for a process that was replaced or whose sandbox is gone.
        """
        run, key = event["run"], (event["netns"], event["container"])
        if (timer := self._kill_timers.pop(run, None)) is not None:
            timer.cancel()
        if (exited := self._awaited_exits.pop(run, None)) is not None:
            exited.set()
            is_expected = False
        if is_expected:
            self._processes.pop(key, None)
        if not is_expected or not self._reports.add(_exited(event, self._logs.path(*key))):
            self._send(do="acknowledge", runs=[run])

    def _resync(self) -> None:
        """Ask init for everything again: events may be lost, as the connection was broken."""
        self._requests.add(task := asyncio.get_running_loop().create_task(self._sync()))
        task.add_done_callback(self._requests.discard)

    async def _sync(self, *, is_first: bool = False) -> Message:
        """Take over the processes and exits that init knows of.

        is_first: True if a former agent has started all of them.
        """
        answer = await self._init.call(do="list")
        for process in answer.get("processes", ()):
            key = process["netns"], process["container"]
            if process["is_probe"] or (key in self._processes and not self._is_current(process)):
                continue
            self._processes[key] = _Process(
                process["run"], ProcessId(*process["sandbox"]), process["pid"]
            )
            self._logs.record_run(*key, process["attempt"])
            # The former agent may have been killed before it stored the start.
            self._reports.add(_started(process, process["role"]))
        for event in answer.get("exits", ()):
            key = event["netns"], event["container"]
            if is_first and key not in self._processes:
                self._logs.record_run(*key, event["attempt"])
                self._record_exit(event, is_expected=True)
            else:
                self._record_exit(event, is_expected=self._is_current(event))
        return answer


def _started(labels: Message, program: str) -> Message:
    """Return the report of a process that has started."""
    return {
        **{name: labels[name] for name in ("netns", "sandbox", "container", "attempt")},
        "state": "running",
        "is_process": program == programs.COMMAND,
        "at": time.time(),
    }


def _exited(event: Message, log: Path) -> Message:
    """Return the report of a process that has exited; its message is the end of the log."""
    code = os.waitstatus_to_exitcode(event["status"])
    message = container_logs.last_line(log) if code > 0 else f"{KILLED} {-code}" if code < 0 else ""
    oom_limit = event.get("oom_limit") if code else 0
    if oom_limit:
        message = f"the container used more than its memory limit of {format_bytes(oom_limit)}"
    return {
        **{name: event[name] for name in ("run", "netns", "sandbox", "container", "attempt", "at")},
        "state": "exited",
        "exit_code": code if code >= 0 else 128 - code,
        "message": message,
        "reason": OOM_KILLED if oom_limit else "",
    }
