"""Real network filesystems on one machine, a server and two clients each: docs/lab.md."""
