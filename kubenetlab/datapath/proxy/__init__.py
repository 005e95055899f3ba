"""kube-proxy modes: how Services become rules. One file each; what they share is in services.py."""
