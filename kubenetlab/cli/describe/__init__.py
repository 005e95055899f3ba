"""Printed form of objects: `describe`, the columns of `get`, and kernel objects of `inspect`."""
