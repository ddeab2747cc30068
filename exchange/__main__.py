"""``python -m exchange …``: see ``cli``."""

from exchange.cli import main

main()
