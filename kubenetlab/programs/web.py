"""nginx and httpd: port 80 and a welcome page; other paths are not found.

The images listen on port 80, and here on the declared ports as well. With a configuration of the container's own (a volume mounted
over the image's, a command or arguments) port 80 is not known to be open: then it is the declared ports alone, if there are any.
"""

from collections.abc import Mapping
from typing import Final

from kubenetlab.api.containers import Container
from kubenetlab.hoststate.programs import ListenPort
from kubenetlab.programs import Ports, Setup, declared_ports, image_name
from kubenetlab.programs.http import PodIdentity, Request, Response

TAKES_PORTS = True
SERVES_TLS = True
"""True for a server that answers TLS beside HTTP, with a certificate of its own: what the image would do is not known."""
_CONFIGURATIONS: Final = ("/etc/nginx", "/usr/local/apache2/conf", "/etc/apache2", "/etc/httpd")
"""Where the images keep their configuration."""
_HTTP: Final = (ListenPort("TCP", 80),)
_PAGES = {
    "nginx": "<!DOCTYPE html>\n<html>\n<head>\n<title>Welcome to nginx!</title>\n</head>\n<body>\n<h1>Welcome to nginx!</h1>\n<p>{who}</p>\n</body>\n</html>\n",
    "httpd": "<html><body><h1>It works!</h1><p>{who}</p></body></html>\n",
}


def runs_until_stopped(container: Container) -> bool:
    """Return True for the image's own server; a command or arguments may do something else."""
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
    """Return True when the container brings a configuration that may say other ports."""
    mounts = container.volume_mounts if isinstance(container.volume_mounts, list) else []
    paths = [str(mount.get("mountPath", "")) for mount in mounts if isinstance(mount, Mapping)]
    return bool(
        container.command
        or container.args
        or any(path.startswith(_CONFIGURATIONS) for path in paths)
    )


async def http(request: Request, me: PodIdentity) -> Response:
    kind = me.options["server"]
    if request.path not in ("/", "/index.html"):
        return Response(
            404,
            f"<html><head><title>404 Not Found</title></head><body><h1>404 Not Found</h1><hr>{kind}</body></html>\n".encode(),
            "text/html",
            {"Server": kind},
        )
    page = _PAGES[kind].format(
        who=f"{me.namespace}/{me.pod}, {me.address} on {me.node}; you are {request.peer[0]}"
    )
    return Response(200, page.encode(), "text/html", {"Server": kind})
