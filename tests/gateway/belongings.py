"""Something of every kind that a tenant can have, and calls that name it: for tests that walk all routes.

What a route takes is read from the OpenAPI document, so a new route is walked without a word here. An id of a
new kind needs something that it can name: `test_every_id_has_something_to_name` says so.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from engine.domain.ids import ID_MAX
from gateway.routing import Route
from tests.gateway.conftest import APP_SECRET, Business

Json = dict[str, Any]

PARAMETER: Final = re.compile(r"<\w+:(\w+)>")

_TYPES: Final = {"reaction": "reaction", "attachments": "image"}
"""The type of a message that has this member; of another, text."""

_VALUES: Final[Mapping[str, Any]] = {
    "phone": "+201000000001",
    "timezone": "Africa/Cairo",
    "day": "monday",
    "email": "somebody@else.example",
    "password": "correct horse battery",
}
"""Texts that a schema does not describe well enough to make one."""


def mark_of(business: Business) -> str:
    """Stands in everything of the tenant that has a text."""
    return f"for {business.slug} alone"


def belongings(business: Business) -> Json:
    """Ids of things that are all the business's own, by the names that parameters and members have."""
    owner, mark = business.owner, mark_of(business)
    conversation = business.conversation(mark)
    path = f"/conversations/{conversation['id']}"
    spare = {
        "platform": "whatsapp",
        "name": f"Spare, {mark}",
        "external_id": f"{business.number_id}1",
        "credentials": {"access_token": "an-access-token", "app_secret": APP_SECRET},
        "settings": {"base_url": "http://127.0.0.1:9"},
    }
    rule = {"kind": "greeting", "name": mark, "reply": {"type": "text", "body": mark}, "active": False}
    file = owner.ok("POST", "/upload", files={"file": ("a.txt", mark.encode(), "text/plain")})
    message = owner.ok("GET", f"{path}/messages")["items"][0]["id"]
    tag = owner.ok("POST", "/tags", {"name": mark})["id"]
    # What the conversation's own channel is changed to, its sender would call.
    channel = owner.ok("POST", "/channels", spare)["id"]
    return {
        "conversation_id": conversation["id"],
        "conversation_ids": [conversation["id"]],
        "message_id": message,
        "reply_to": message,
        "note_id": owner.ok("POST", f"{path}/notes", {"body": mark})["id"],
        "tag_id": tag,
        "tag_ids": [tag],
        "tag": tag,
        "rule_id": owner.ok("POST", "/automated-replies", rule)["id"],
        "user_id": business.agent.user_id,
        "assigned_to": business.agent.user_id,
        "channel_id": channel,
        "channel_ids": [channel],
        "customer_id": owner.ok("POST", "/customers", {"name": mark})["id"],
        "file_id": file["id"],
        "file_url": file["url"],
        "token_id": owner.ok("POST", "/api-tokens", {"name": mark})["id"],
    }


class Described:
    """The OpenAPI document, as far as calls are made of it."""

    def __init__(self, document: Json) -> None:
        self._document = document

    def body(self, route: Route) -> Json | None:
        """The schema of a route's JSON body."""
        content = self._operation(route).get("requestBody", {}).get("content", {})
        schema: Json | None = content.get("application/json", {}).get("schema")
        return None if schema is None else self._whole(schema)

    def query_ids(self, route: Route) -> list[str]:
        """The names of a query's ids."""
        named = self._operation(route)["parameters"]
        return [each["name"] for each in named if each["in"] == "query" and self._is_id(each["schema"])]

    def ids(self, schema: Json, depth: int = 4) -> Iterator[tuple[str, ...]]:
        """Where in a body an id can stand: the names of the members on the way to it."""
        for name, member in schema.get("properties", {}).items():
            if self._is_id(member):
                yield (name,)
            elif depth:
                for inner in self._inside(member):
                    yield from ((name, *rest) for rest in self.ids(inner, depth - 1))

    def least(self, schema: Json, own: Json, also: tuple[str, ...] = ()) -> Any:
        """The smallest value that fits, its ids from `own`; with the members on the way to an id that is in
        none of the required ones."""
        schema = self._whole(schema)
        for choice in ("anyOf", "oneOf"):
            if choice in schema:
                fits = [self._whole(each) for each in schema[choice]]
                named = [each for each in fits if also and also[0] in each.get("properties", {})]
                return self.least(
                    (named or [each for each in fits if each.get("type") != "null"])[0], own, also
                )
        if "enum" in schema:
            return schema["enum"][0]
        match schema.get("type"):
            case "object":
                members = schema["properties"]
                wanted = dict.fromkeys((*schema.get("required", ()), *also[:1]))
                made = {
                    name: self._member(name, members[name], own, also[1:] if name in also[:1] else ())
                    for name in wanted
                }
                if {"type", "content", "attachments"} <= set(members):
                    # The document says what a message may have, and not which of it goes with which type.
                    made["type"] = next((_TYPES[name] for name in also if name in _TYPES), "text")
                    made |= {"content": "A text"} if made["type"] == "text" else {}
                return made
            case "array":
                return [self.least(schema["items"], own, also)] * max(schema.get("minItems", 0), bool(also))
            case "integer" | "number":
                return max(schema.get("minimum", 0), 0)
            case "boolean":
                return False
            case _:
                return "x" * max(schema.get("minLength", 1), 1)

    def _member(self, name: str, schema: Json, own: Json, also: tuple[str, ...]) -> Any:
        if self._is_id(schema):
            return own[name]
        if name in _VALUES:
            return _VALUES[name]
        return self.least(schema, own, also)

    def _operation(self, route: Route) -> Json:
        path = PARAMETER.sub(r"{\1}", route.path)
        operation: Json = self._document["paths"][path][route.method.lower()]
        return operation

    def _whole(self, schema: Json) -> Json:
        while "$ref" in schema:
            schema = self._document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return schema

    def _inside(self, schema: Json) -> Iterator[Json]:
        schema = self._whole(schema)
        if "properties" in schema:
            yield schema
        for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
            yield from self._inside(each)
        if "items" in schema:
            yield from self._inside(schema["items"])

    def _is_id(self, schema: Json) -> bool:
        schema = self._whole(schema)
        if any(self._is_id(each) for each in schema.get("anyOf", ())):
            return True
        if schema.get("type") == "array":
            return self._is_id(schema["items"])
        return schema.get("type") == "integer" and (schema.get("minimum"), schema.get("maximum")) == (
            1,
            ID_MAX,
        )


def address_of(route: Route, ids: Json) -> str:
    """The route's address below the tenant's, with these ids in it."""
    path = route.path.removeprefix("/api/<slug:tenant>")
    return PARAMETER.sub(lambda found: str({**_VALUES, **ids}[found[1]]), path)
