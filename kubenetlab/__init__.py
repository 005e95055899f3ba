"""Kubernetes' networking model on one Linux machine, built from real kernel objects."""

__version__ = "0.1.0"
