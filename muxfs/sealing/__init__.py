"""Sealed sessions: the key file, and what `cryptography` does with the key in it.

protocol.md, section 17. `cryptography` is imported only by `schedule`, when a key is used.
"""
