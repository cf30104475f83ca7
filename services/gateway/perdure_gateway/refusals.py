"""Which refusals of links are recorded: whoever holds a link needs no key, and must not fill AUDIT with his attempts.

So many a minute are recorded of one link, and of all links of a tenant, in each gateway. The others are counted: the
next record that is written says how many they were.
"""

from collections import Counter
from typing import Final

from perdure.clock import Clock
from perdure.ids import Tenant
from perdure_gateway.rates import Buckets

OF_A_LINK: Final = 20  # a minute
OF_A_TENANT: Final = 120


class Refusals:
    """Counts the refusals of a gateway's links."""

    def __init__(self, clock: Clock) -> None:
        self._links = Buckets(clock, OF_A_LINK)
        self._tenants = Buckets(clock, OF_A_TENANT)
        self._left_out = Counter[Tenant]()

    def admit(self, tenant: Tenant, link_id: str) -> int | None:
        """How many were left out of the tenant's records since the last that was not; None: this one is left out."""
        if self._links.left(link_id) < 1 or self._tenants.left(tenant) < 1:
            self._left_out[tenant] += 1
            return None
        self._links.take(link_id)
        self._tenants.take(tenant)
        return self._left_out.pop(tenant, 0)
