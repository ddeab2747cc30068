"""The door of a process, as the settings have it.

Read ``hosts_of``, which refuses to start what would be open to everybody by mistake, and
``master_keys_of``.
"""

import logging

from exchange.config import Settings, SettingsError, is_loopback
from exchange.door.modes import Door
from exchange.door.secrets import MasterKeyError, MasterKeys, read_master_keys
from exchange.gateway.server.hosts import Hosts

logger = logging.getLogger(__name__)

OPEN: dict[Door, str] = {
    Door.LOOPBACK: "The door is open: whoever uses this machine may act for every client.",
    Door.OPEN: "The door is open: something else must keep others away, since whoever reaches this"
    " address may act for every client.",
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
            f" client. Set DOOR=open if something else keeps others away, or {host_setting} to a"
            " loopback address."
        )
    return Hosts(door, settings.host_names)


def told_hosts_of(settings: Settings, host_setting: str) -> Hosts:
    """Do as ``hosts_of``, and say in the log who keeps the door."""
    hosts = hosts_of(settings, host_setting)
    logger.warning(OPEN[hosts.door], extra={"door": str(hosts.door)})
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
