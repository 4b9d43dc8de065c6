"""What adapters find wrong with an account, marked on its channel for a person to see."""

from collections.abc import Callable

import structlog
import trio

from adapters.channel import Trouble
from adapters.port import Account
from engine.domain.engine import Engine
from engine.domain.tenant.messages import NeedAttention
from engine.errors import MijraError

log = structlog.get_logger()


class Troubles:
    def __init__(self, engine: Engine, hurry: Callable[[int, int, int], None]) -> None:
        """`hurry(tenant, channel, credentials_at)`: the credentials should be renewed now."""
        self._engine = engine
        self._hurry = hurry
        self.nursery: trio.Nursery | None = None

    def tell(self, trouble: Trouble) -> None:
        """Whoever tells may not wait, so the change is made by a task of its own."""
        if self.nursery is not None:
            self.nursery.start_soon(self._mark, trouble)
        if trouble.halted:
            self._hurry(trouble.tenant_id, trouble.channel_id, trouble.credentials_at)

    def tell_of(self, account: Account, note: str) -> None:
        """What a service or reader may not do with an account's credentials is no reason to keep back what is
        sent with others of them."""
        trouble = Trouble(
            tenant_id=account.tenant_id,
            channel_id=account.channel_id,
            code="service",
            note=note,
            halted=False,
            credentials_at=account.credentials_at,
        )
        self.tell(trouble)

    async def _mark(self, trouble: Trouble) -> None:
        mark = NeedAttention(
            channel_id=trouble.channel_id,
            note=trouble.note,
            # The channel that found the trouble has stopped itself.
            halts=False,
            credentials_at=trouble.credentials_at,
        )
        try:
            await self._engine.ask_tenant(trouble.tenant_id, mark)
        except MijraError as error:
            log.warning(
                "channel.attention_not_marked",
                tenant=trouble.tenant_id,
                channel_id=trouble.channel_id,
                reason=str(error),
            )
