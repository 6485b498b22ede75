"""One end of a tunnel without a terminal: its session, its forwards, what it lets in and dials."""
