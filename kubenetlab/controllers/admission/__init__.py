"""Admission: what the API server does with an object before it is stored."""
