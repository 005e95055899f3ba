"""Loaders of the rule backends: each loads and lists the rules of one backend in a namespace."""
