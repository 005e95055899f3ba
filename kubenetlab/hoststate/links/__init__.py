"""Links: one module for each kind, the messages about them, and the decoder."""
