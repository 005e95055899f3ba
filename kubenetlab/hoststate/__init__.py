"""The machine as data: what should exist in the kernel and what does exist have the same types, so they can be compared."""
