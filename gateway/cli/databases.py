"""The database server that the environment names, for commands that work on databases themselves."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from gateway.settings import Settings
from storage.bridge import Bridge
from storage.databases import DatabaseServer
from storage.embedded import embedded_postgres


@asynccontextmanager
async def database_server(settings: Settings, *, url: str | None = None) -> AsyncIterator[DatabaseServer]:
    """The server at `url`, else the one of the settings, else the embedded one, which processes share."""
    async with AsyncExitStack() as stack:
        bridge = await stack.enter_async_context(Bridge())
        dsn = url or settings.database_url
        if dsn is None:
            dsn = await stack.enter_async_context(embedded_postgres(settings.data_dir / "postgres"))
        prefix = f"{settings.database_prefix}_"
        yield await stack.enter_async_context(DatabaseServer(bridge, dsn, prefix=prefix))
