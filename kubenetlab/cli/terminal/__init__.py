"""Output of commands: text, tables, hints, and JSON Schemas of their data."""
