"""Messages between the processes of a lab, HTTP, TLS and gRPC over sockets that callers open."""
