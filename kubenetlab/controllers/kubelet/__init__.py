"""The kubelet: containers, statuses, environment and end of a node's pods."""
