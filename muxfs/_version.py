"""The version, where both pyproject.toml and the program read it."""

__version__ = "0.1.0"
