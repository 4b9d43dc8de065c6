"""The OpenAPI 3.1 document and a page to read it, both made from the routes.

msgspec describes the bodies, queries and answers that the pipeline decodes and encodes with, so the document
cannot promise a shape that the code does not have. The page is plain HTML without scripts or anything from
elsewhere: it works in a closed network and under the strictest content policy.
"""

import re
from collections.abc import Iterable, Sequence
from html import escape
from http import HTTPStatus
from typing import Any, Final

import msgspec

from engine.domain.ids import ID_MAX
from gateway.envelope import JSON_TYPE
from gateway.idempotency import HEADER, KEY_CHARACTERS_MAX
from gateway.permissions import Permission
from gateway.routing import Access, Route

_TEMPLATE: Final = "#/components/schemas/{name}"
_PARAMETER: Final = re.compile(r"<(?P<kind>\w+)(?:\([^)]*\))?:(?P<name>\w+)>")

_ID: Final[dict[str, Any]] = {"type": "integer", "minimum": 1, "maximum": ID_MAX}

_FAILURE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["success", "message", "code", "errors"],
    "properties": {
        "success": {"const": False},
        "message": {"type": "string", "description": "A sentence for people."},
        "code": {"type": "string", "description": "A stable word for machines."},
        "errors": {
            "type": "object",
            "additionalProperties": {"type": "array", "items": {"type": "string"}},
            "description": "Sentences by field.",
        },
        "data": {"description": "What the caller has missed, where that helps."},
    },
}

_DESCRIPTION: Final = """\
Every answer is `{"success", "message", "data"}` or `{"success", "message", "code", "errors"}` and carries \
`X-Request-Id`. Lists are keyset pages: send `next_cursor` back as `cursor`. Mutating calls within a tenant \
take an `Idempotency-Key`. Ids fit a JavaScript number, times are RFC 3339 UTC with milliseconds. 429 and \
503 carry `Retry-After`. The push is not in here: the WebSocket `/ws`, and Pusher's protocol at `/app/{key}` \
with `POST /broadcasting/auth` and the server API `/apps/{app_id}/…`, have pages of their own."""


def document(routes: Sequence[Route]) -> bytes:
    """The document as JSON."""
    kinds = _kinds(routes)
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_TEMPLATE)
    schema_of = {id(kind): schema for kind, schema in zip(kinds, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = _PARAMETER.sub(lambda match: "{" + match["name"] + "}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, schema_of, components)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "Mijra", "version": "1", "description": _DESCRIPTION},
            "paths": paths,
            "components": {
                "schemas": {**components, "Failure": _FAILURE},
                "securitySchemes": {
                    "token": {"type": "http", "scheme": "bearer", "bearerFormat": "<id>|<secret>"}
                },
            },
        }
    )


def docs_page(described: bytes) -> str:
    """The document as one HTML page."""
    content = msgspec.json.decode(described)
    sections: dict[str, list[str]] = {}
    for path, operations in content["paths"].items():
        for method, operation in operations.items():
            sections.setdefault(operation["tags"][0], []).append(_operation_html(method, path, operation))
    body = "".join(
        f"<h2 id='{escape(area)}'>{escape(area)}</h2>{''.join(entries)}" for area, entries in sections.items()
    )
    links = " · ".join(f"<a href='#{escape(area)}'>{escape(area)}</a>" for area in sections)
    schemas = "".join(
        f"<details id='schema-{escape(name)}'><summary>{escape(name)}</summary>"
        f"<pre>{_pretty(schema)}</pre></details>"
        for name, schema in content["components"]["schemas"].items()
    )
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Mijra API</title>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<style>{_STYLE}</style><h1>Mijra API</h1><p>{escape(_DESCRIPTION)}</p>"
        f"<p><a href='openapi.json'>openapi.json</a></p><nav>{links}</nav>"
        f"{body}<h2>schemas</h2>{schemas}</html>"
    )


def _kinds(routes: Iterable[Route]) -> list[Any]:
    found: list[Any] = []
    for route in routes:
        for kind in (route.body, route.query, route.answer):
            if kind is not None and not any(kind is known for known in found):
                found.append(kind)
    return found


def _operation(route: Route, schema_of: dict[int, Any], components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name.replace(".", "_"),
        "summary": route.summary,
        "description": f"{route.description}\n\nNeeds: {_needs(route)}.",
        "tags": [route.area],
        "parameters": _parameters(route, schema_of, components),
        "responses": _responses(route, schema_of),
        "security": [] if route.needs is Access.PUBLIC else [{"token": []}],
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": _has_required(route.body, schema_of, components),
            "content": {JSON_TYPE: {"schema": schema_of[id(route.body)]}},
        }
    elif route.path.endswith("/upload"):
        file = {
            "type": "object",
            "required": ["file"],
            "properties": {"file": {"type": "string", "format": "binary"}},
        }
        operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": file}}}
    return operation


def _needs(route: Route) -> str:
    if isinstance(route.needs, Permission):
        return f"the permission `{route.needs.value}`"
    return {
        Access.PUBLIC: "nothing",
        Access.SIGNED_IN: "a token",
        Access.LANDLORD: "a landlord admin's token",
    }[route.needs]


def _parameters(route: Route, schema_of: dict[int, Any], components: dict[str, Any]) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    for match in _PARAMETER.finditer(route.path):
        schema = _ID if match["kind"] == "id" else {"type": "string"}
        parameters.append({"name": match["name"], "in": "path", "required": True, "schema": schema})
    if route.query is not None:
        described = _resolved(schema_of[id(route.query)], components)
        for name, schema in described["properties"].items():
            required = name in described.get("required", ())
            parameters.append({"name": name, "in": "query", "required": required, "schema": schema})
    if route.mutating and route.in_tenant and route.media == JSON_TYPE and route.needs is not Access.PUBLIC:
        schema = {"type": "string", "minLength": 1, "maxLength": KEY_CHARACTERS_MAX}
        parameters.append({"name": HEADER, "in": "header", "required": False, "schema": schema})
    return parameters


def _responses(route: Route, schema_of: dict[int, Any]) -> dict[str, Any]:
    data: dict[str, Any] = schema_of[id(route.answer)] if route.answer is not None else {}
    if route.paged:
        data = {
            "type": "object",
            "required": ["items", "next_cursor"],
            "properties": {
                "items": {"type": "array", "items": data},
                "next_cursor": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
        }
    success: dict[str, Any] = {
        "type": "object",
        "required": ["success", "message", "data"],
        "properties": {"success": {"const": True}, "message": {"type": "string"}, "data": data},
    }
    content = {route.media: {"schema": success if route.media == JSON_TYPE else {"type": "string"}}}
    responses: dict[str, Any] = {
        str(route.status): {"description": _phrase(route.status), "content": content}
    }
    for status in route.also:
        if status < 300:
            responses[str(status)] = {"description": _phrase(status), "content": content}
        elif status < 400:
            responses[str(status)] = {"description": _phrase(status)}
    for status in _failures(route):
        responses[str(status)] = {
            "description": _phrase(status),
            "content": {JSON_TYPE: {"schema": {"$ref": _TEMPLATE.format(name="Failure")}}},
        }
    return responses


def _failures(route: Route) -> list[int]:
    statuses = [422, 429, 503, *(status for status in route.also if status >= 400)]
    if route.needs is not Access.PUBLIC:
        statuses += [401, 403]
    if "<" in route.path:
        statuses.append(404)
    if route.mutating:
        statuses += [400, 409, 413, 415]
    return sorted(set(statuses))


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase


def _resolved(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    resolved: dict[str, Any] = components[name] if name else schema
    return resolved


def _has_required(kind: Any, schema_of: dict[int, Any], components: dict[str, Any]) -> bool:
    return bool(_resolved(schema_of[id(kind)], components).get("required"))


def _operation_html(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f"<p>{escape(operation['description'])}</p>"]
    if operation["parameters"]:
        rows = "".join(
            f"<tr><td><code>{escape(p['name'])}</code><td>{p['in']}{' *' if p['required'] else ''}"
            f"<td><code>{_pretty(p['schema'])}</code>"
            for p in operation["parameters"]
        )
        parts.append(f"<table>{rows}</table>")
    for title, holder in [("body", operation.get("requestBody")), *operation["responses"].items()]:
        for media, described in (holder or {}).get("content", {}).items():
            if not title.startswith(("4", "5")):
                schema = _pretty(described["schema"])
                parts.append(f"<h4>{title} <small>{escape(media)}</small></h4><pre>{schema}</pre>")
    refusals = ", ".join(status for status in operation["responses"] if status.startswith(("4", "5")))
    parts.append(f"<p>Refusals: {refusals}</p>")
    return (
        f"<details><summary><b class='{method}'>{method.upper()}</b> <code>{escape(path)}</code> "
        f"{escape(operation['summary'])}</summary>{''.join(parts)}</details>"
    )


def _pretty(schema: Any) -> str:
    text = escape(msgspec.json.format(msgspec.json.encode(schema), indent=2).decode())
    return re.sub(r"&quot;#/components/schemas/(\w+)&quot;", r"<a href='#schema-\1'>\1</a>", text)


_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}
details{border:1px solid #d5dae0;border-radius:4px;margin:.3rem 0;padding:.3rem .6rem}
summary{cursor:pointer}pre{background:#f4f6f8;padding:.6rem;overflow:auto;font-size:13px}
table{border-collapse:collapse}td{border:1px solid #d5dae0;padding:.2rem .5rem;vertical-align:top}
b{display:inline-block;width:4.2rem}.get{color:#0a6b3d}.post{color:#0b4fa8}.put,.patch{color:#8a5a00}.delete{color:#a3172a}
"""
