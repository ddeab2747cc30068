"""The Chromium in which pages are tried. Pages cannot be looked at without one."""

import os
import shutil
from pathlib import Path
from typing import Final

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ON_MACOS: Final = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
LEFT_OUT: Final = "The pages were not tried: no Chromium is in PATH (Debian: apt install chromium)."

# A page may use no other host, so nothing of the browser itself need ask the network.
FLAGS: Final = (
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str | None:
    """Return the path of a Chromium, None if there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name)) is not None), None)
    return found or next((path for path in ON_MACOS if Path(path).exists()), None)


def is_required() -> bool:
    """Tell whether tests without a browser fail: where changes are checked, none is left out."""
    return os.environ.get("CI", "") not in ("", "0", "false")


def flags() -> list[str]:
    """Return how Chromium is started; its sandbox refuses to run as root."""
    return [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
