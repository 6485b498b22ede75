"""muxfs that takes plain reads for right on every filesystem, whatever the table says.

python -m tests.lab.misjudged listen|dial ...
"""

from __future__ import annotations

import sys
from unittest import mock

from muxfs.cli import main
from muxfs.storage import filesystem
from muxfs.storage.choices import Choice, Source

WRONG = Choice((), "held+dsync", Source.SAFEST)

if __name__ == "__main__":
    with mock.patch.object(filesystem, "choice_for", return_value=WRONG):
        sys.exit(main())
