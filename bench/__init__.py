"""Benchmarks: muxfs and its peers, in the same run, on the same work."""
