"""Messages between the lab's processes, and HTTP, over sockets that other code opened."""
