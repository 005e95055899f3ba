"""The lab's API on a Unix socket: Kubernetes' paths and verbs, and a group of its own."""
