"""``exchange …`` and ``python -m exchange …``: see ``cli``."""

import sys

# Before the other imports: with -O Python would first compile all of them anew.
if not __debug__:
    sys.exit("Optimised Python leaves checks out: run it without -O and PYTHONOPTIMIZE.")

from exchange.cli import main

if __name__ == "__main__":
    main()
