"""Django Channels on Daphne with its in-process layer, which spares it Redis: a consumer, a group,
`group_send`. The application that `daphne bench.peers.fanout.channels_server:application` serves."""

from typing import Any

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path

settings.configure(
    SECRET_KEY="bench",
    ALLOWED_HOSTS=["*"],
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels.layers.InMemoryChannelLayer",
            # What is over it is dropped without a word; the default of 100 is for servers that may lose.
            "CONFIG": {"capacity": 100_000},
        }
    },
)
django.setup()


class Listener(AsyncWebsocketConsumer):  # type: ignore[misc]
    async def connect(self) -> None:
        await self.channel_layer.group_add("all", self.channel_name)
        await self.accept()
        await self.send(text_data="ready")

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard("all", self.channel_name)

    async def published(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


class Publisher(AsyncWebsocketConsumer):  # type: ignore[misc]
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send("all", {"type": "published", "text": text_data})


application = ProtocolTypeRouter(
    {"websocket": URLRouter([path("", Listener.as_asgi()), path("publish", Publisher.as_asgi())])}
)
