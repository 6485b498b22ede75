"""Control sockets and their clients."""
