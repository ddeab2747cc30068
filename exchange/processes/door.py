"""The door of a process, as the settings have it.

Read ``hosts_of``, which refuses to start what would be open to everybody by mistake, and
``master_keys_of``.
"""

import logging
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.config import Settings, SettingsError, is_loopback
from exchange.door.keeper import Keeper
from exchange.door.keys import Keys
from exchange.door.modes import Door
from exchange.door.secrets import MasterKeyError, MasterKeys, read_master_keys
from exchange.door.tokens import Tokens
from exchange.gateway.server.hosts import Hosts

logger = logging.getLogger(__name__)

TOLD: Final[dict[Door, str]] = {
    Door.LOOPBACK: "The door is open: whoever uses this machine may act for every client.",
    Door.OPEN: "The door is open: something else must keep others away, since whoever reaches this"
    " address may act for every client.",
    Door.KEYS: "The door is kept: requests are signed.",
}


def hosts_of(settings: Settings, host_setting: str) -> Hosts:
    """Return which requests are answered at the address that a setting (``HOST``) gives.

    Raises:
        SettingsError: Others could reach it, and nobody keeps the door.
    """
    door = Door(settings.door)
    host: str = getattr(settings, host_setting.lower())
    if door is Door.LOOPBACK and not is_loopback(host):
        raise SettingsError(
            f"{host_setting}={host}: other machines could reach this address, and act for every"
            " client. Set DOOR=keys to have requests signed, DOOR=open if something else keeps"
            f" others away, or {host_setting} to a loopback address."
        )
    if door is Door.KEYS:
        _check_masters(master_keys_of(settings))
    return Hosts(door, settings.host_names)


def told_hosts_of(settings: Settings, host_setting: str) -> Hosts:
    """Do as ``hosts_of``, and say in the log who keeps the door."""
    hosts = hosts_of(settings, host_setting)
    level = logging.INFO if hosts.door is Door.KEYS else logging.WARNING
    logger.log(level, TOLD[hosts.door], extra={"door": str(hosts.door)})
    return hosts


def master_keys_of(settings: Settings) -> MasterKeys:
    """Return the master keys; there may be none.

    Raises:
        SettingsError: They are set twice, cannot be read, or have another form.
    """
    text, file = settings.keys_master, settings.keys_master_file
    if text and file is not None:
        raise SettingsError("KEYS_MASTER, KEYS_MASTER_FILE: set one of them, not both.")
    if file is not None:
        try:
            text = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"KEYS_MASTER_FILE={file}: cannot be read ({error}).") from error
    try:
        return read_master_keys(text)
    except MasterKeyError as error:
        name = "KEYS_MASTER" if file is None else f"KEYS_MASTER_FILE={file}"
        raise SettingsError(f"{name}: {error}") from error


def keys_of(settings: Settings, engine: AsyncEngine) -> Keys | None:
    """Return the keys that a process knows, which it is to follow; None behind an open door."""
    if Door(settings.door) is not Door.KEYS:
        return None
    return Keys(engine, master_keys_of(settings))


def keeper_of(settings: Settings, keys: Keys | None) -> Keeper | None:
    """Return who lets in the owners of these keys; None behind an open door."""
    return None if keys is None else Keeper(keys, Tokens(master_keys_of(settings)))


def _check_masters(masters: MasterKeys) -> None:
    try:
        masters.newest  # noqa: B018  raises if there is none
    except MasterKeyError as error:
        raise SettingsError(f"DOOR=keys: {error}") from error
