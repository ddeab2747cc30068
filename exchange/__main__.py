"""``exchange …`` and ``python -m exchange …``: see ``cli``."""

import sys

# Before all else is imported: optimised, it would have to be compiled for that.
if not __debug__:
    sys.exit("Optimised Python leaves checks out: run it without -O and PYTHONOPTIMIZE.")

from exchange.cli import main

if __name__ == "__main__":
    main()
