"""The master keys that the settings name: ``master_keys_of`` reads them when a process starts."""

from exchange.config import Settings, SettingsError
from exchange.door.secrets import MasterKeyError, MasterKeys, read_master_keys


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
