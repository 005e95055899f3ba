"""Manifests: loading files, one typed object for each document."""
