"""Truth tables: their rows, the probes of each row, and the verdict."""
