"""Lifecycle hooks of containers, run once from the node: a command in the container, an HTTP request, or a pause."""

from __future__ import annotations

import asyncio

from kubenetlab.lab.nodeagent.prober import PeriodicProbe


class HookRun(PeriodicProbe):
    """One hook. Its end is reported as a probe's answer is: how it went, and why not."""

    async def _run(self) -> None:
        fault = await self._act()
        if fault is None:
            self.succeed()
        else:
            self._report(False, fault, 1, is_settled=True)

    async def _act(self) -> str | None:
        """Run the hook; return what went wrong, or None."""
        spec = self.spec
        if spec.method == "sleep":
            await asyncio.sleep(spec.delay_s)
            return None
        if spec.method == "none":
            return "invalid handler: tcpSocket is not supported as a lifecycle hook"
        return await self._ask(spec.timeout_s)
