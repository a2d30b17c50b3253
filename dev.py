"""Everything a newcomer or a developer does with Mjesec: `python dev.py --help` tells what there is."""

import os
import sys

# in words that an old Python understands, and before anything is imported that it does not
if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit("dev.py: Python 3.10 to 3.14 is needed; start it with one of these.")

# Python itself would put the place there that links lead to, or nothing at all (PYTHONSAFEPATH)
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from devtools.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
