"""Code shared by several controllers: events, names, owners, deletion and timers."""
