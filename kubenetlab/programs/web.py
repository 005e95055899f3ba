"""nginx and httpd: port 80 and a welcome page; other paths are not found."""

from kubenetlab.api.containers import Container
from kubenetlab.hoststate.programs import Listener
from kubenetlab.programs import Setup, image_name
from kubenetlab.programs.arguments import declared_ports
from kubenetlab.programs.http import Me, Request, Response

_PAGES = {
    "nginx": "<!DOCTYPE html>\n<html>\n<head>\n<title>Welcome to nginx!</title>\n</head>\n<body>\n<h1>Welcome to nginx!</h1>\n<p>{who}</p>\n</body>\n</html>\n",
    "httpd": "<html><body><h1>It works!</h1><p>{who}</p></body></html>\n",
}


def configure(container: Container, service_ports: tuple[Listener, ...]) -> Setup:
    kind = "nginx" if image_name(container.image).startswith("nginx") else "httpd"
    listeners = dict.fromkeys(
        (Listener("TCP", 80), *declared_ports(container), *(port for port in service_ports if port.protocol == "TCP"))
    )
    return Setup("web", {"server": kind}, tuple(listeners))


async def http(request: Request, me: Me) -> Response:
    kind = me.options["server"]
    if request.path not in ("/", "/index.html"):
        return Response(
            404,
            f"<html><head><title>404 Not Found</title></head><body><h1>404 Not Found</h1><hr>{kind}</body></html>\n".encode(),
            "text/html",
            {"Server": kind},
        )
    page = _PAGES[kind].format(who=f"{me.namespace}/{me.pod}, {me.address} on {me.node}; you are {request.peer[0]}")
    return Response(200, page.encode(), "text/html", {"Server": kind})
