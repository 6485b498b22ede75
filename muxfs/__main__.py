"""`python -m muxfs`."""

from muxfs.cli import main

if __name__ == "__main__":
    main()
