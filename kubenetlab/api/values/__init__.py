"""Values in fields: addresses, durations and quantities."""
