"""On a login host: opens the JupyterLab behind a local port, and runs a cell.

python -m tests.slurm.notebook PORT TOKEN
"""

from __future__ import annotations

import sys

from tests.e2e.browser import Browser, execute


def main(port: int, token: str) -> None:
    """Print what the cell printed."""
    browser = Browser(port)
    browser.login(token)
    assert browser.static_files()
    kernel = browser.start_kernel()
    channels = browser.channels(kernel)
    try:
        print(execute(channels, "import os; print(6 * 7, os.uname().nodename)"), end="")
    finally:
        channels.close()
    browser.stop_kernel(kernel)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
