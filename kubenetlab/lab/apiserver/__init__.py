"""API of a lab on a Unix socket: Kubernetes' paths and verbs, and the lab's own API group."""
