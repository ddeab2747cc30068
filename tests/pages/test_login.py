"""Logging in on the pages where the door asks for keys."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Page, expect

from exchange.config import PROJECT, Settings
from tests.conftest import Services, free_ports
from tests.keys import MASTER
from tests.pages.conftest import Place, until_answers, until_live
from tests.pages.test_trading import fill, fills, orders, send
from tests.running import Exchange

TRADER: Final = "login-trader"


@dataclass(frozen=True)
class Kept:
    """A gateway and a desk whose door asks for keys, and key files."""

    url: str
    desk: str
    files: Path
    settings: Settings


def run(settings: Settings, *words: str) -> str:
    """Return what a command prints."""
    told = subprocess.run(
        [sys.executable, "-m", "exchange", *words],
        env={**os.environ, **settings.environment()},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


@pytest.fixture(scope="module")
def kept(
    exchange: Exchange,
    analyst_url: str,
    services: Services,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Kept]:
    del analyst_url
    ports = free_ports(3)
    settings = replace(
        exchange.settings,
        door="keys",
        keys_master=MASTER,
        port=ports[0],
        operator_port=ports[1],
        gateway_metrics_port=ports[2],
    )
    files = tmp_path_factory.mktemp("keys")
    run(settings, "keys", "bootstrap", "--to", str(files / "admin"))
    run(settings, "accounts", "create", TRADER)
    scopes = [word for one in ("read", "trade", "cancel") for word in ("--scope", one)]
    for algorithm in ("ed25519", "hmac-sha256"):
        to = ("--algorithm", algorithm, "--to", str(files / algorithm))
        run(settings, "keys", "issue", TRADER, *scopes, *to)
    guarded = Exchange(settings, files)
    processes = (*guarded.gateways, guarded.operator)
    for process in processes:
        services.portal.call(process.start)
    until_answers(f"{guarded.urls[0]}/readyz")
    until_answers(f"{settings.operator_address}/livez")
    yield Kept(guarded.urls[0], settings.operator_address, files, settings)
    for process in processes:
        services.portal.call(process.stop)


def log_in(page: Page, file: Path) -> None:
    page.get_by_label("Key file").set_input_files(file)
    page.get_by_role("button", name="Log in", exact=True).click()


@pytest.mark.parametrize("algorithm", ["ed25519", "hmac-sha256"])
def test_somebody_logs_in_with_a_key_file_and_trades(
    page: Page, kept: Kept, instrument: str, algorithm: str
) -> None:
    page.goto(f"{kept.url}/?instrument={instrument}")
    until_live(page)
    expect(page.locator("#entry-send")).to_have_text(re.compile("Log in first"))

    log_in(page, kept.files / algorithm)
    expect(page.get_by_text(re.compile(f"Logged in as {TRADER} with key .*read"))).to_be_visible()
    until_live(page)
    fill(page, "10", "1")
    send(page)
    expect(orders(page)).to_have_count(1)
    orders(page).get_by_role("button", name=re.compile("Cancel")).first.click()
    expect(orders(page)).to_have_count(0)


def test_own_orders_and_fills_are_told_by_the_stream(
    page: Page, kept: Kept, instrument: str, place: Place
) -> None:
    page.goto(f"{kept.url}/?instrument={instrument}")
    log_in(page, kept.files / "ed25519")
    expect(page.get_by_text(re.compile(f"Logged in as {TRADER}"))).to_be_visible()
    until_live(page)

    place("sell", "2", "11", client=TRADER)
    expect(orders(page)).to_have_count(1)
    place("buy", "2", "11")
    expect(fills(page)).to_have_count(1)
    expect(orders(page)).to_have_count(0)


def test_the_key_is_kept_nowhere_and_a_reload_logs_out(
    page: Page, kept: Kept, instrument: str
) -> None:
    page.goto(f"{kept.url}/?instrument={instrument}")
    log_in(page, kept.files / "ed25519")
    expect(page.get_by_text(re.compile(f"Logged in as {TRADER}"))).to_be_visible()
    kept_text = page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    )
    secret = re.search(r'"secret": ?"([^"]+)"', (kept.files / "ed25519").read_text())
    assert secret is not None
    assert secret[1] not in kept_text

    page.reload()
    expect(page.get_by_text("Nobody is logged in.")).to_be_visible()
    expect(page.get_by_text("Trading as")).to_contain_text("nobody yet")


def test_what_is_no_key_says_so(page: Page, kept: Kept, instrument: str, faults: list[str]) -> None:
    page.goto(f"{kept.url}/?instrument={instrument}")
    page.get_by_label("or its text").fill("my password")
    page.get_by_role("button", name="Log in", exact=True).click()

    expect(page.get_by_role("alert").filter(has_text="This is no key")).to_be_visible()
    assert faults == []


def test_the_desk_asks_an_auditor_to_look_and_an_admin_to_change(
    page: Page, kept: Kept, faults: list[str]
) -> None:
    page.goto(f"{kept.desk}/")
    log_in(page, kept.files / "ed25519")
    expect(page.get_by_role("alert").filter(has_text="needs the scope audit")).to_be_visible()

    log_in(page, kept.files / "admin")
    expect(page.get_by_text(re.compile("Logged in as admin with key"))).to_be_visible()
    expect(page.get_by_role("status").first).to_contain_text("live")
    page.get_by_role("button", name="Pause vwap 1").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Who").fill("grace")
    dialog.get_by_label("Why").fill("to see a pause")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("Generation 1 of vwap is paused.")
    dialog.get_by_role("button", name="Close").press("Enter")
    page.get_by_role("button", name="Resume vwap 1").press("Enter")
    dialog.get_by_role("button", name="Resume").press("Enter")
    expect(dialog).to_contain_text("goes on")

    assert all(re.search(r"\b40[13]\b", fault) for fault in faults)
    faults.clear()


@pytest.fixture
def admins(page: Page, kept: Kept, faults: list[str]) -> Iterator[Page]:
    """The desk's keys, looked at by an admin; what was refused is told on the console."""
    desk = page.context.new_page()
    desk.goto(f"{kept.desk}/#keys")
    log_in(desk, kept.files / "admin")
    expect(desk.get_by_text(re.compile("Logged in as admin"))).to_be_visible()
    yield desk
    desk.close()
    assert all(re.search(r"\b4\d\d\b", fault) for fault in faults), faults
    faults.clear()


def press_twice(desk: Page, name: str | re.Pattern[str]) -> None:
    button = desk.get_by_role("button", name=name)
    button.click()
    expect(desk.get_by_text("Press again.")).to_be_visible()
    button.click()


def order(page: Page, price: str) -> None:
    fill(page, price, "1")
    send(page)


def test_a_key_is_made_at_the_desk_used_at_the_market_suspended_and_revoked(
    page: Page, admins: Page, kept: Kept, instrument: str
) -> None:
    client = f"desk-{instrument}"
    admins.get_by_label("A new client's id").fill(client)
    admins.get_by_role("button", name="Make an account").click()
    expect(admins.get_by_text(f"{client} has an account.")).to_be_visible()
    admins.get_by_role("link", name=client).click()
    admins.get_by_label("Label").fill("made here")
    admins.get_by_role("button", name="Issue a key").click()
    text = admins.get_by_role("textbox", name="Key file").input_value()
    row = admins.get_by_role("row", name=re.compile(json.loads(text)["key_id"]))
    expect(row).to_contain_text(re.compile("read trade cancel.*made here"))

    page.goto(f"{kept.url}/?instrument={instrument}")
    page.get_by_label("or its text").fill(text)
    page.get_by_role("button", name="Log in", exact=True).click()
    expect(page.get_by_text(re.compile(f"Logged in as {client}"))).to_be_visible()
    until_live(page)
    order(page, "10")
    expect(orders(page)).to_have_count(1)

    press_twice(admins, f"Suspend {client}")
    expect(admins.get_by_text(re.compile(f"{client} places no more orders"))).to_be_visible()
    order(page, "9")
    expect(page.get_by_text(re.compile("suspended")).first).to_be_visible()
    press_twice(admins, f"Resume {client}")
    expect(admins.get_by_text(re.compile(f"{client} may place orders again"))).to_be_visible()
    order(page, "8")
    expect(orders(page)).to_have_count(2)

    press_twice(admins, re.compile("^Revoke"))
    expect(row).to_contain_text("ended")
    expect(page.locator("#line [data-part=state]")).not_to_have_text("● live")


def test_what_is_tried_on_the_interfaces_page_is_signed(page: Page, kept: Kept) -> None:
    page.goto(f"{kept.url}/docs#/trading/get_caller")
    log_in(page, kept.files / "ed25519")
    expect(page.get_by_text(re.compile(f"Logged in as {TRADER}"))).to_be_visible()

    tried = page.locator("#operations-trading-get_caller")
    tried.get_by_role("button", name="Try it out").click()
    tried.get_by_role("button", name="Execute").click()
    expect(tried.locator(".live-responses-table")).to_contain_text(TRADER)
