"""Agents who answer: sends with client keys, repeated with the same key until they are answered 201."""

import random
from typing import Final

import httpx
import trio

from bench.chaos.customers import Pace
from bench.chaos.ledger import Account, Violations
from bench.chaos.system import Server

_AGAIN_SECONDS: Final = 0.2


class Agents:
    """Those of one business."""

    def __init__(self, account: Account, server: Server, rng: random.Random, violations: Violations) -> None:
        self.account = account
        self.over = False
        self._server = server
        self._rng = rng
        self._violations = violations
        self._key = 0

    async def answer(self, pace: Pace) -> None:
        """One agent's life, until `over`."""
        business = self.account.business
        async with httpx.AsyncClient(
            base_url=f"{self._server.base_url}/api/{business.slug}/",
            headers={"Authorization": f"Bearer {business.token}"},
            timeout=15,
            # A kept connection may end at any time here, and a failed send costs more than a new one.
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=False,
        ) as client:
            while True:
                await pace.turn()
                if self.over:
                    return
                if not self.account.conversation_ids:
                    continue
                conversation = self._rng.choice(self.account.conversation_ids)
                self._key += 1
                await self._send(client, conversation, f"{business.placement}/{self._key}")

    async def _send(self, client: httpx.AsyncClient, conversation: int, key: str) -> None:
        body = {"type": "text", "content": f"Answer {key}", "client_key": key}
        while True:
            try:
                answer = await client.post(f"conversations/{conversation}/messages", json=body)
            except httpx.TransportError:
                await trio.sleep(_AGAIN_SECONDS)
                continue
            if answer.status_code == 201:
                self.account.answer(key, answer.json()["data"]["id"])
                return
            if answer.status_code not in (429, 503):
                self._violations.add("refused", f"send {key}: {answer.status_code} {answer.text[:200]}")
                return
            await trio.sleep(_AGAIN_SECONDS)
