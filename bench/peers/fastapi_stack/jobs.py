"""The peer's worker: what happens to a message after it was acknowledged."""

import os
from typing import Any, ClassVar

from arq.connections import RedisSettings

from bench.peers.fastapi_stack import store


async def startup(ctx: dict[str, Any]) -> None:
    """Open the pool; rules change rarely, so they are read once."""
    ctx["pool"] = await store.create_pool(os.environ["PEER_DATABASE_URL"], 5)
    ctx["rules"] = await ctx["pool"].fetch("SELECT channel_id, keyword, reply FROM keyword_rules ORDER BY id")


async def shutdown(ctx: dict[str, Any]) -> None:
    """Close the pool."""
    await ctx["pool"].close()


async def after_message(ctx: dict[str, Any], channel_id: int, message_id: int) -> str | None:
    """The reply of the first keyword rule that the message's text contains."""
    text = await ctx["pool"].fetchval(
        "SELECT content->'text'->>'body' FROM messages WHERE id = $1", message_id
    )
    folded = (text or "").casefold()
    for rule in ctx["rules"]:
        if rule["channel_id"] == channel_id and rule["keyword"] in folded:
            return str(rule["reply"])
    return None


class Worker:
    """arq's settings. Results are not kept: nobody asks for them, and they would only fill Redis."""

    functions: ClassVar = [after_message]
    on_startup = startup
    on_shutdown = shutdown
    redis_settings = RedisSettings(unix_socket_path=os.environ["PEER_REDIS_SOCKET"])
    keep_result = 0
    max_jobs = 50
    poll_delay = 0.1
