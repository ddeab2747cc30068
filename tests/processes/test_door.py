"""Who keeps the door, and the master keys, as the settings have them."""

from pathlib import Path

import pytest

from exchange.config import Settings, SettingsError
from exchange.door.modes import Door
from exchange.processes.door import hosts_of, master_keys_of

KEY = f"7:{'A' * 43}="


def settings(**environ: str) -> Settings:
    return Settings.load(environ, dotenv=None)


def test_they_are_read_from_the_environment_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "masters"
    file.write_text(f"{KEY}\n")

    assert master_keys_of(settings(KEYS_MASTER=KEY)).newest == 7
    assert master_keys_of(settings(KEYS_MASTER_FILE=str(file))).newest == 7
    child = Settings.load(settings(KEYS_MASTER=KEY).environment(), dotenv=None)
    assert child.keys_master == KEY


def test_what_cannot_be_used_is_named_without_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "masters"
    with pytest.raises(SettingsError, match=r"^KEYS_MASTER_FILE=.*masters: cannot be read"):
        master_keys_of(settings(KEYS_MASTER_FILE=str(file)))
    with pytest.raises(SettingsError, match="set one of them, not both"):
        master_keys_of(settings(KEYS_MASTER=KEY, KEYS_MASTER_FILE=str(file)))
    with pytest.raises(SettingsError, match=r"^KEYS_MASTER: Master key 1") as caught:
        master_keys_of(settings(KEYS_MASTER="hush"))
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("name", ["HOST", "ANALYST_HOST", "OPERATOR_HOST"])
def test_what_others_could_reach_does_not_start_without_somebody_at_the_door(name: str) -> None:
    elsewhere = {name: "0.0.0.0"}

    with pytest.raises(SettingsError, match=rf"^{name}=0\.0\.0\.0: other machines could reach"):
        hosts_of(settings(**elsewhere), name)
    assert hosts_of(settings(), name).door is Door.LOOPBACK
    assert hosts_of(settings(**elsewhere, DOOR="open"), name).door is Door.OPEN
    assert hosts_of(settings(**elsewhere, DOOR="keys", KEYS_MASTER=KEY), name).door is Door.KEYS


def test_keys_need_a_master_key() -> None:
    with pytest.raises(SettingsError, match=r"^DOOR=keys: No master key is set"):
        hosts_of(settings(DOOR="keys"), "HOST")
