"""How much a client and an address may ask for, as the settings say."""

from exchange.config import Settings
from exchange.gateway.parts.limits import Limit, Limits


def limits_of(settings: Settings) -> Limits:
    """Return the limits of a process that takes requests."""
    return Limits(
        orders=Limit(settings.rate_limit_orders_per_second, settings.rate_limit_orders_burst),
        cancels=Limit(settings.rate_limit_cancels_per_second, settings.rate_limit_cancels_burst),
        address=Limit(settings.rate_limit_address_per_second, settings.rate_limit_address_burst),
        retries=Limit(settings.rate_limit_retries_per_second, settings.rate_limit_retries_burst),
        operations=Limit(
            settings.rate_limit_operations_per_second, settings.rate_limit_operations_burst
        ),
        key=Limit(settings.rate_limit_key_per_second, settings.rate_limit_key_burst),
        signatures=Limit(
            settings.rate_limit_signatures_per_second, settings.rate_limit_signatures_burst
        ),
        history=Limit(settings.rate_limit_history_per_second, settings.rate_limit_history_burst),
    )
