"""The keys that a process knows, kept up with the log.

Read ``Keys.get`` and ``Keys.run``. A key is looked up when somebody shows it for the first time,
and kept. Each second the process asks which keys have changed since, so that a revoked key is
refused everywhere within seconds. A process that could not follow for ``BEHIND_S`` knows of no key
whether it is still good, and lets nobody in.
"""

import asyncio
import hmac
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.domain.values import KeyAlgorithm
from exchange.door.refusals import Unavailable
from exchange.door.secrets import MasterKeyError, MasterKeys
from exchange.log.reader import read_heads
from exchange.waiting import heed_cancellation
from projections.accounts import NAME, Key, keys_changed_after, read_key
from projections.stores.checkpoints import ReadModelUnavailable, read_live
from projections.stores.failures import is_store_failure
from projections.stores.postgres import driver_connection

logger = logging.getLogger(__name__)

FOLLOW_S: Final = 1.0
BEHIND_S: Final = 5.0
LOOKS_MAX: Final = 2  # at once: whoever shows keys that are none must not take all connections
LOOK_S: Final = 2.0  # a look takes a millisecond; beyond this PostgreSQL counts as away
CHANGES_MAX: Final = 500  # in one look; the next one goes on
# Some 2 kB each. The least recently used are dropped, and looked up again.
KEYS_KEPT: Final = 20_000
ADDRESSES_KEPT: Final = 4_096  # parsing one takes 2 µs, and most come again
Checker = Callable[[bytes, bytes], bool]


class KnownKey:
    """A key, and what its requests are checked with."""

    __slots__ = ("_is_bound", "_networks", "check", "key", "scopes")

    def __init__(self, key: Key, check: Checker) -> None:
        self.key = key
        self.check = check
        self.scopes = frozenset(key.scopes)
        self._is_bound = bool(key.addresses)
        self._networks = [network for text in key.addresses if (network := _network(text))]

    def may_come_from(self, address: str) -> bool:
        """Tell whether the key is good at an address."""
        if not self._is_bound:
            return True
        parsed = _address(address)
        return parsed is not None and any(parsed in network for network in self._networks)


class Keys:
    """The keys that this process was shown.

    Args:
        engine: Connections to the database.
        masters: The master keys, of which the secrets of HMAC keys are made.
    """

    def __init__(self, engine: AsyncEngine, masters: MasterKeys) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._masters = masters
        self._known: OrderedDict[str, KnownKey] = OrderedDict()
        self._looks = asyncio.Semaphore(LOOKS_MAX)
        self._position = 0
        self._heads: deque[tuple[float, int]] = deque(maxlen=16)  # of the last looks
        self._caught_up_s = float("-inf")  # the newest moment whose log has been followed

    @property
    def is_fresh(self) -> bool:
        """Whether everything is known that shard 0 had decided ``BEHIND_S`` ago."""
        return time.monotonic() - self._caught_up_s <= BEHIND_S

    async def get(self, key_id: str) -> KnownKey | None:
        """Return a key, whether it is still good or not; None if there is none.

        Raises:
            Unavailable: It cannot be told which keys are good.
        """
        if not self.is_fresh:
            raise Unavailable
        known = self._known.get(key_id)
        if known is None:
            return await self._look_up(key_id)
        self._known.move_to_end(key_id)
        return known

    def peek(self, key_id: str) -> KnownKey | None:
        """Return a key if it is known here; it is kept for as long as somebody asks each second."""
        known = self._known.get(key_id)
        if known is not None:
            self._known.move_to_end(key_id)
        return known

    async def run(self) -> None:
        """Follow the log for ever."""
        while True:
            heed_cancellation()
            try:
                async with asyncio.timeout(LOOK_S):
                    is_behind = await self._follow()
            except Exception as error:
                if not _is_away(error):
                    raise
                if self.is_fresh:
                    logger.warning("Cannot follow the keys", extra={"error": repr(error)})
                is_behind = False
            if not is_behind:
                await asyncio.sleep(FOLLOW_S)

    async def _follow(self) -> bool:
        """Look once which keys have changed; tell whether there may be more."""
        asked_s = time.monotonic()
        async with driver_connection(self._engine) as driver:
            head = (await read_heads(driver)).get(0, 0)
        async with self._engine.connect() as connection:
            live = await read_live(connection, NAME)
            reached = live.reached.get(0, 0)
            if not self._known:  # so nothing can have changed
                self._position = max(self._position, reached)
            changed = await keys_changed_after(connection, live, self._position, limit=CHANGES_MAX)
        for key in changed:
            self._position = key.position
            if key.key_id in self._known:
                self.learn(key)
        if len(changed) == CHANGES_MAX:
            return True
        self._heads.append((asked_s, head))
        self._caught_up_s = max(
            (at_s for at_s, at in self._heads if at <= reached), default=self._caught_up_s
        )
        return False

    async def _look_up(self, key_id: str) -> KnownKey | None:
        """Read a key; once more if changes were looked at meanwhile, when it was not known yet."""
        try:
            async with asyncio.timeout(LOOK_S), self._looks:
                while True:
                    position = self._position
                    async with self._engine.connect() as connection:
                        key = await read_key(connection, await read_live(connection, NAME), key_id)
                    if key is None:
                        return None
                    if position == self._position:
                        return self.learn(key)
        except Exception as error:
            if not _is_away(error):
                raise
            raise Unavailable from error

    def learn(self, key: Key) -> KnownKey:
        """Keep a key as it is now, and return it.

        Raises:
            Unavailable: Its master key is missing.
        """
        earlier = self._known.get(key.key_id)
        if earlier is not None and earlier.key.position > key.position:
            return earlier  # a look that took longer than the next one
        known = KnownKey(key, earlier.check if earlier else self._checker(key))
        self._known[key.key_id] = known
        while len(self._known) > KEYS_KEPT:
            self._known.popitem(last=False)
        return known

    def _checker(self, key: Key) -> Checker:
        """Return what tells whether a text has a signature of this key.

        Raises:
            Unavailable: Its master key is missing.
        """
        if key.algorithm is KeyAlgorithm.ED25519:
            return _ed25519(Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.public_key or "")))
        try:
            return _hmac(self._masters.hmac_secret(key.master or 0, key.key_id))
        except MasterKeyError as error:
            logger.error("A key cannot be used", extra={"key": key.key_id, "error": str(error)})
            raise Unavailable from error


def _is_away(error: Exception) -> bool:
    return isinstance(error, ReadModelUnavailable) or is_store_failure(error)


def _ed25519(public_key: Ed25519PublicKey) -> Checker:
    def check(text: bytes, signature: bytes) -> bool:
        try:
            public_key.verify(signature, text)
        except InvalidSignature:
            return False
        return True

    return check


def _hmac(secret: bytes) -> Checker:
    def check(text: bytes, signature: bytes) -> bool:
        return hmac.compare_digest(hmac.digest(secret, text, "sha256"), signature)

    return check


@lru_cache(ADDRESSES_KEPT)
def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address, an IPv4 address mapped into IPv6 as IPv4; None if it is none."""
    try:
        parsed = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed


def _network(text: str) -> IPv4Network | IPv6Network | None:
    """Read a network; one that is none contains no address."""
    try:
        return ip_network(text)
    except ValueError:
        return None
