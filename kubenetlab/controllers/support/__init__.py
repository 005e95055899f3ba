"""What several controllers need: events, names, owners, deletion and timers."""
