"""Documentation of all fields, and the JSON Schema of the kinds."""
