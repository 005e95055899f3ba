"""The agent's hand for programs: the app workers, and init for programs that are processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
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
from kubenetlab.lab.log import log
from kubenetlab.lab.runtime import container_logs
from kubenetlab.lab.runtime.container_logs import LogPart, Which
from kubenetlab.lab.transport.batcher import Batcher
from kubenetlab.lab.transport.frames import Message
from kubenetlab.lab.transport.rpc import RpcClient

KILL_AFTER_S = 30.0
"""How long a process may take to end when it is asked to, where nothing else is said."""
ENDED_LOGS = 256
"""Of so many containers that are gone the logs are kept."""
REPLACE_AFTER_S = 1.0
"""How long one is waited for that another one is to follow."""

NOT_FOUND = 127
"""The exit status of a command that is no program, as shells have it."""


class _Process(Struct):
    """A container that is a process of its own."""

    run: str
    """Name of the process in requests to init and in its events."""
    sandbox: ProcessId
    pid: int = 0
    """0 until init has answered; for display only."""


OnReports = Callable[[Sequence[Message]], None]
OnLost = Callable[[list[str]], None]
SandboxOf = Callable[[str], ProcessId | None]
"""Return the pause process that holds a sandbox now."""


class RuntimeClient:
    """Starts and stops programs, and passes on what becomes of them.

    The answer that a program was started and the event that it has exited may arrive in either order: a process is recorded before
    init is asked for it, and a report that something runs never replaces the report that the same run is over.
    """

    def __init__(
        self,
        directory: Path,
        workers: int,
        on_reports: OnReports,
        on_lost: OnLost,
        sandbox_of: SandboxOf,
    ) -> None:
        self._directory = directory
        self._on_reports = on_reports
        self._reports = Batcher(self._deliver)
        self._on_lost = on_lost
        self._sandbox_of = sandbox_of
        self._workers = [
            RpcClient(
                f"app worker {number}",
                str(directory / rundir.worker_socket(number)),
                partial(self._heard, number),
                lambda: None,
            )
            for number in range(workers)
        ]
        self._init = RpcClient(
            "init", str(directory / rundir.INIT_SOCKET), self._heard_init, self._resync
        )
        self._token = os.urandom(4).hex()
        """Distinguishes the runs of this agent from those of its predecessors."""
        self._serial = 0
        self._worker_of: dict[str, int] = {}
        self._nodes: dict[str, int] = {}
        self._processes: dict[tuple[str, str], _Process] = {}
        """By (sandbox, container), from the request to start one to the report of its exit."""
        self._gone: dict[str, asyncio.Event] = {}
        """Runs whose exit somebody waits for; it is not reported."""
        self._node_of: dict[str, str] = {}
        self._leaving: dict[asyncio.Task[None], str] = {}
        """Sandboxes that are gone and may still hold ports, and the node of each, whose network it may have shared."""
        self._ending: dict[str, asyncio.TimerHandle] = {}
        """Runs that were asked to end → the timer that kills them."""
        self._ended: deque[tuple[str, str]] = deque()
        """Whose logs are kept although they are gone, the oldest first."""
        self._log_of: dict[tuple[str, str], int] = {}
        """(sandbox, container) of those that have a log file → the attempt whose it is."""
        self.running: dict[tuple[str, str], int] = {}
        """(sandbox, container) → attempt, as far as the processes have told."""
        self._over: dict[tuple[str, str], int] = {}
        """(sandbox, container) → the latest attempt that has ended."""
        self._reported: list[str] = []
        """Runs whose exit has been reported, and is not acknowledged before the report is stored."""
        self._requests: set[asyncio.Task[Message]] = set()
        """Requests to init that nobody waits for."""

    async def adopt(self) -> None:
        """Learn from init which processes run in pods, and which have exited unnoticed; workers report when they are connected to."""
        await self._sync(is_first=True)
        for hand in self._workers:
            await hand.call(do="nothing")  # the answer comes behind the worker's own `hello`

    async def start(
        self,
        run: ProgramRun,
        sandbox: ProcessId,
        context: Context,
        environment: Callable[[], dict[str, str]],
    ) -> str | None:
        """`environment` gives a real command's variables. None when it was started or could not be for a reason of its own (then it is reported); else what stood in the way."""
        self._node_of[run.netns] = context.node
        if leaving := [task for task, node in self._leaving.items() if node in ("", context.node)]:
            await asyncio.wait(leaving)
        if programs.is_process(run.program):
            return await self._start_process(run, sandbox, context, environment)
        answer = await self._worker(run.netns, context.node).call(
            do="run",
            netns=run.netns,
            sandbox=sandbox,
            container=run.container,
            attempt=run.attempt,
            program=run.program,
            options=run.options,
            listeners=[msgspec.to_builtins(listener) for listener in run.listeners],
            is_stopping=run.is_stopping,
            identity=context.identity,
            versions=context.versions,
            hosts=context.files.hosts,
            resolv_conf=context.files.resolv_conf,
        )
        if "error" in answer:
            return str(answer["error"])
        self._report(answer)
        return None

    async def tell(self, netns: str, container: str, node: str, news: list[Message]) -> bool:
        """Tells a built-in program what has happened; false when it is not there to hear it."""
        answer = await self._worker(netns, node).call(
            do="tell", netns=netns, container=container, news=news
        )
        return bool(answer.get("ok"))

    def process(self, netns: str, container: str) -> int | None:
        """The pid of a container that is a process of its own."""
        process = self._processes.get((netns, container))
        return process.pid or None if process is not None else None

    async def stop(self, run: ProgramRun, node: str) -> None:
        """Ends a program; success when it has ended already."""
        self.running.pop((run.netns, run.container), None)
        process = self._processes.get((run.netns, run.container))
        if process is not None:
            self._end(process.run, float(run.options.get("grace_s", KILL_AFTER_S)))
        else:
            await self._worker(run.netns, node).call(
                do="stop", netns=run.netns, container=run.container
            )

    async def logs(
        self,
        netns: str,
        container: str,
        node: str,
        which: Which = "latest",
        *,
        after: int = 0,
        is_going_on: bool = False,
    ) -> LogPart | None:
        """The log of a container's run, behind what was read before: the file of its process, or what the worker remembers; None when
        nobody has one. Of a pod that is gone nobody knows any more which worker had it: all are asked.
        """
        path = self._log(netns, container)
        if path.exists():
            is_former = which == "previous" or (
                which != "latest" and which < self._log_of.get((netns, container), which)
            )
            try:
                return container_logs.read(
                    container_logs.previous(path) if is_former else path,
                    after,
                    is_going_on=is_going_on,
                )
            except FileNotFoundError:
                return None
        for hand in self._workers if netns not in self._worker_of else (self._worker(netns, node),):
            answer = await hand.call(
                do="logs", netns=netns, container=container, which=which, after=after
            )
            if "lines" in answer:
                return LogPart(answer["lines"], answer["end"])
        return None

    def forget(self, netns: str) -> None:
        """A sandbox is gone, and all that ran in it. Logs are kept a while, for whoever asks why it ended."""
        self._ended.extend(key for key in self._log_of if key[0] == netns)
        while len(self._ended) > ENDED_LOGS:
            container_logs.remove(self._log(*self._ended.popleft()))
        self._leave(netns)
        for known in (self.running, self._over, self._processes, self._log_of):
            for key in [key for key in known if key[0] == netns]:
                del known[key]

    def _leave(self, netns: str) -> None:
        """Has what listened in a sandbox let go of its ports: a pod in its node's network may be followed by one that wants the same."""
        number = self._worker_of.pop(netns, None)
        node = self._node_of.pop(netns, "")
        runs = [process.run for key, process in self._processes.items() if key[0] == netns]
        deaths = {run: self._gone.setdefault(run, asyncio.Event()) for run in runs}
        if number is not None or deaths:
            task = asyncio.get_running_loop().create_task(
                self._left(netns, None if number is None else self._workers[number], deaths)
            )
            self._leaving[task] = node
            task.add_done_callback(self._leaving.pop)

    async def _left(
        self, netns: str, worker: RpcClient | None, deaths: Mapping[str, asyncio.Event]
    ) -> None:
        try:
            async with asyncio.timeout(REPLACE_AFTER_S):
                if worker is not None:
                    await worker.call(do="forget", netns=netns)
                for death in deaths.values():
                    await death.wait()
        except TimeoutError:
            log(f"{netns}: something in it may still hold its ports")
        finally:
            for run in deaths:
                self._gone.pop(run, None)

    async def _start_process(
        self,
        run: ProgramRun,
        sandbox: ProcessId,
        context: Context,
        environment: Callable[[], dict[str, str]],
    ) -> str | None:
        who = {
            "netns": run.netns,
            "sandbox": sandbox,
            "container": run.container,
            "attempt": run.attempt,
        }
        key = run.netns, run.container
        if (former := self._processes.get(key)) is not None:
            await self._replace(former.run)
            self._processes.pop(key, None)
        files = {"hosts": context.files.hosts, "resolv_conf": context.files.resolv_conf}
        variables = environment()
        argv = [expand(word, variables) for word in run.options.get("argv", ())]
        if (
            argv
            and "/" not in argv[0]
            and not has_command(argv[0], variables.get("PATH", CONTAINER_PATH))
        ):
            self._refuse(who, no_such_command(argv[0]))
            return None
        self._begin_log(who)
        born_with = {
            **who,
            **run.options,
            "argv": argv,
            **files,
            "identity": context.identity,
            "environment": variables,
        }
        self._serial += 1
        # Recorded before the request: the process may have exited, and its exit been reported, before this coroutine sees the answer.
        process = self._processes[key] = _Process(f"{self._token}-{self._serial}", sandbox)
        answer = await self._init.call(
            do="spawn", run=process.run, role=run.program, sandbox=sandbox, arguments=born_with
        )
        if "error" in answer:
            if self._processes.get(key) is process:
                del self._processes[key]
            return str(answer["error"])
        process.pid = answer["pid"]
        self._report(_started(who, run.program))
        return None

    def _refuse(self, who: dict[str, Any], message: str) -> None:
        """A command that cannot even begin: it says so in its log, and is told of as one that never ran."""
        self._begin_log(who)
        with open(self._log(who["netns"], who["container"]), "a") as file:
            file.write(f"{message}\n")
        self._report(
            {
                **who,
                "state": "failed",
                "exit_code": NOT_FOUND,
                "message": message,
                "at": time.time(),
            }
        )

    def _log(self, netns: str, container: str) -> Path:
        return self._directory / rundir.container_log(netns, container)

    def _begin_log(self, who: dict[str, Any]) -> None:
        key = who["netns"], who["container"]
        if who["attempt"] > self._log_of.get(key, -1):
            container_logs.begin_run(self._log(*key))
        self._log_of[key] = who["attempt"]

    def _end(self, run: str, grace_s: float) -> None:
        """Ask a process to end, and kill it when it has not ended after `grace_s`; success when it is gone already."""
        if run not in self._ending:
            self._ending[run] = asyncio.get_running_loop().call_later(
                grace_s, self._signal, run, signal.SIGKILL
            )
            self._signal(run, signal.SIGTERM)

    def _signal(self, run: str, number: signal.Signals) -> None:
        """Have init, which reaps the process and so cannot mistake another one for it, send a signal."""
        self._ask_init(do="signal", run=run, signal=int(number))

    def _ask_init(self, **request: Any) -> None:
        """Send a request whose answer nobody needs."""
        self._requests.add(
            task := asyncio.get_running_loop().create_task(self._init.call(**request))
        )
        task.add_done_callback(self._requests.discard)

    async def _replace(self, run: str) -> None:
        """End a process before another one follows it: the ports must be free again."""
        gone = self._gone.setdefault(run, asyncio.Event())
        for number, wait_s in ((signal.SIGTERM, REPLACE_AFTER_S), (signal.SIGKILL, KILL_AFTER_S)):
            answer = await self._init.call(do="signal", run=run, signal=int(number))
            if not answer.get("ok"):
                break  # its exit was reported before this answer
            try:
                async with asyncio.timeout(wait_s):
                    await gone.wait()
                break
            except TimeoutError:
                continue
        self._gone.pop(run, None)

    def _worker(self, netns: str, node: str) -> RpcClient:
        """A sandbox stays with the worker that opened its sockets; a node's pods share one."""
        if netns not in self._worker_of:
            self._worker_of[netns] = self._nodes.setdefault(
                node, len(self._nodes) % len(self._workers)
            )
        return self._workers[self._worker_of[netns]]

    def _heard(self, number: int, event: Message) -> None:
        if event["event"] == "run":
            self._report(event)
            return
        told = {
            (run["netns"], run["container"]) for run in event["runs"] if run["state"] == "running"
        }
        lost = [
            key
            for key in self.running
            if self._worker_of.get(key[0]) == number
            and key not in told
            and key not in self._processes
        ]
        for key in lost:
            del self.running[key]
        for run in event["runs"]:
            self._worker_of[run["netns"]] = number
            self._report(run)
        if lost:
            self._on_lost([netns for netns, _ in lost])

    def _heard_init(self, event: Message) -> None:
        if event["event"] == "exited" and not event["is_probe"]:
            self._record_exit(event, is_expected=self._is_current(event))

    def _is_current(self, event: Message) -> bool:
        process = self._processes.get((event["netns"], event["container"]))
        return process is not None and process.run == event["run"]

    def _record_exit(self, event: Message, *, is_expected: bool) -> None:
        """Report an exit, except of a process that another one replaces or whose sandbox is gone (`is_expected` is false)."""
        run, key = event["run"], (event["netns"], event["container"])
        if (timer := self._ending.pop(run, None)) is not None:
            timer.cancel()
        if (gone := self._gone.pop(run, None)) is not None:
            gone.set()
            is_expected = False
        if is_expected:
            self._processes.pop(key, None)
        if not is_expected or not self._report(_exited(event, self._log(*key))):
            self._ask_init(do="acknowledge", runs=[run])

    def _resync(self) -> None:
        """The connection to init broke: events may be missing."""
        self._requests.add(task := asyncio.get_running_loop().create_task(self._sync()))
        task.add_done_callback(self._requests.discard)

    async def _sync(self, *, is_first: bool = False) -> Message:
        """Take over what init knows of processes and their exits. With `is_first` all of it is a former agent's."""
        answer = await self._init.call(do="list")
        for process in answer.get("processes", ()):
            key = process["netns"], process["container"]
            if process["is_probe"] or (key in self._processes and not self._is_current(process)):
                continue
            self._processes[key] = _Process(
                process["run"], ProcessId(*process["sandbox"]), process["pid"]
            )
            self._log_of[key] = process["attempt"]
            self._report(
                _started(process, process["role"])
            )  # the former agent may have had no time to write it down
        for event in answer.get("exits", ()):
            key = event["netns"], event["container"]
            if is_first and key not in self._processes:
                self._log_of[key] = event["attempt"]
                self._record_exit(event, is_expected=True)
            else:
                self._record_exit(event, is_expected=self._is_current(event))
        return answer

    def _report(self, report: dict[str, Any]) -> bool:
        """Pass on a report; return False for one of a sandbox that is gone, or that a run goes on that is known to have ended."""
        if not self._is_of_its_sandbox(report):
            return False
        key, attempt = (report["netns"], report["container"]), report["attempt"]
        if report["state"] == "running":
            if attempt <= self._over.get(key, -1):
                return False
            self.running[key] = attempt
        else:
            self._over[key] = max(attempt, self._over.get(key, -1))
            if self.running.get(key, attempt + 1) <= attempt:
                del self.running[key]
        self._reports.add(report)
        return True

    def _deliver(self, reports: Sequence[Message]) -> None:
        self._on_reports(
            [report for report in reports if self._is_of_its_sandbox(report)]
        )  # it may have gone in this very turn
        self._reported += [report["run"] for report in reports if "run" in report]

    def _is_of_its_sandbox(self, report: Message) -> bool:
        """False when the sandbox has gone: another one of the same name is another."""
        return self._sandbox_of(report["netns"]) == tuple(report["sandbox"])

    def acknowledge(self) -> None:
        """Let init drop the exits that were reported. Called when the store that the reports changed is on disk."""
        if self._reported:
            runs, self._reported = self._reported, []
            self._ask_init(do="acknowledge", runs=runs)


def _started(who: Message, program: str) -> Message:
    """The report of a process that runs now."""
    told = {name: who[name] for name in ("netns", "sandbox", "container", "attempt")}
    return {
        **told,
        "state": "running",
        "is_process": program == programs.COMMAND,
        "at": time.time(),
    }


def _exited(event: Message, log: Path) -> Message:
    """The report of a process that has exited."""
    code = os.waitstatus_to_exitcode(event["status"])
    message = (
        container_logs.last_words(log) if code > 0 else f"{KILLED} {-code}" if code < 0 else ""
    )
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
