"""Verdicts of network policies, computed from manifests alone."""
