"""TCP listeners and dialling, spliced to streams; the syntax of forwards."""
