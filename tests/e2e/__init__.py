"""End-to-end tests: the installed commands as separate processes, real sockets, real files."""
