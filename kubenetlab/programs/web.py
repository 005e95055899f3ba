"""nginx and httpd: port 80 with a welcome page; other paths are not found.

The server listens on port 80, as the images do, and on the declared ports. With a configuration
volume, a command or arguments the image may listen elsewhere: then only the declared ports are
open, or port 80 when there are none. Declared UDP and SCTP ports, such as 443/UDP of HTTP/3, answer
as those of an unknown image; HTTP/3 itself is not spoken.
"""

from collections.abc import Mapping
from typing import Final

from kubenetlab.api.containers import Container
from kubenetlab.hoststate.programs import ListenPort
from kubenetlab.programs import Ports, Setup, declared_ports, default, image_name
from kubenetlab.programs.support.http import Peer, ProgramContext, Request, Response

TAKES_PORTS = True
SERVES_TLS = True
"""True for a server that also answers TLS on its ports, with its own certificate.

The lab does not know whether the image would serve TLS.
"""
_CONFIGURATIONS: Final = ("/etc/nginx", "/usr/local/apache2/conf", "/etc/apache2", "/etc/httpd")
"""Directories of the images' configuration."""
_HTTP: Final = (ListenPort("TCP", 80),)
_PAGES = {
    "nginx": (
        "<!DOCTYPE html>\n<html>\n<head>\n<title>Welcome to nginx!</title>\n</head>\n<body>\n"
        "<h1>Welcome to nginx!</h1>\n<p>{identity}</p>\n</body>\n</html>\n"
    ),
    "httpd": "<html><body><h1>It works!</h1><p>{identity}</p></body></html>\n",
}


def runs_until_stopped(container: Container) -> bool:
    """Return True for the image's own command; another command or arguments may end."""
    return not (container.command or container.args)


def configure(container: Container, ports: Ports) -> Setup:
    kind = "nginx" if image_name(container.image).startswith("nginx") else "httpd"
    if ports.stated is not None:
        listeners = ports.stated
    elif _is_configured(container):
        listeners = ports.of(container) or _HTTP
    else:
        listeners = tuple(dict.fromkeys((*_HTTP, *declared_ports(container))))
    return Setup("web", {"server": kind}, listeners)


def _is_configured(container: Container) -> bool:
    """Return True when the container has its own configuration, which may change the ports."""
    mounts = container.volume_mounts if isinstance(container.volume_mounts, list) else []
    paths = [str(mount.get("mountPath", "")) for mount in mounts if isinstance(mount, Mapping)]
    return bool(
        container.command
        or container.args
        or any(path.startswith(_CONFIGURATIONS) for path in paths)
    )


async def http(request: Request, context: ProgramContext) -> Response:
    kind = context.options["server"]
    if request.path not in ("/", "/index.html"):
        body = (
            "<html><head><title>404 Not Found</title></head>"
            f"<body><h1>404 Not Found</h1><hr>{kind}</body></html>\n"
        )
        return Response(404, body.encode(), "text/html", {"Server": kind})
    pod = f"{context.namespace}/{context.pod}, {context.address} on {context.node}"
    page = _PAGES[kind].format(identity=f"{pod}; you are {request.peer[0]}")
    return Response(200, page.encode(), "text/html", {"Server": kind})


def datagram(data: bytes, peer: Peer, context: ProgramContext) -> bytes | None:
    """Answer any datagram, as the server of an unknown image does."""
    return default.datagram(data, peer, context)
