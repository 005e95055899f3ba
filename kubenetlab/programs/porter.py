"""agnhost porter: serves the value of each variable SERVE_PORT_N on port N.

Source: kubernetes test/images/agnhost/porter.
"""

import re

from kubenetlab.api.containers import Container
from kubenetlab.hoststate.programs import ListenPort
from kubenetlab.programs import Setup
from kubenetlab.programs.support.http import ProgramContext, Request, Response, text


def configure_environment(container: Container) -> Setup:
    bodies = {
        match[1]: variable.value
        for variable in container.env
        if (match := re.fullmatch(r"SERVE_PORT_(\d{1,5})", variable.name))
        and 0 < int(match[1]) < 65536
    }
    return Setup(
        "porter", {"bodies": bodies}, tuple(ListenPort("TCP", int(port)) for port in bodies)
    )


async def http(request: Request, context: ProgramContext) -> Response:
    return text(context.options["bodies"].get(str(request.port), ""))
