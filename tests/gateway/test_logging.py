"""Log lines: their shape, what is kept out of them, and that nothing costs a line."""

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from gateway.logging import REDACTED, configure_logging


@pytest.fixture
def out() -> Iterator[io.BytesIO]:
    """Where the lines go; the process's own configuration is put back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield io.BytesIO()
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:], root.level = handlers, level


def lines(out: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_is_json_with_its_leading_fields_first(out: io.BytesIO) -> None:
    """Time in UTC with milliseconds, level, event, then what was bound, then what was given."""
    configure_logging("info", "json", out)
    with structlog.contextvars.bound_contextvars(tenant=7, trace="abc"):
        structlog.get_logger().info("conversation.committed", rows=3, actor="conversation/1")
    [line] = lines(out)
    assert list(line) == ["ts", "level", "event", "trace", "tenant", "actor", "rows"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["ts"])
    assert line | {"ts": ""} == {
        "ts": "",
        "level": "info",
        "event": "conversation.committed",
        "trace": "abc",
        "tenant": 7,
        "actor": "conversation/1",
        "rows": 3,
    }


def test_lines_below_the_level_are_not_written(out: io.BytesIO) -> None:
    """At warning, info is silent and error is not."""
    configure_logging("warning", "json", out)
    log = structlog.get_logger()
    log.info("quiet")
    log.error("loud")
    assert [line["event"] for line in lines(out)] == ["loud"]


@pytest.mark.parametrize(
    "name",
    [
        "token", "access_token", "accessToken", "app_secret", "password", "Authorization",
        "set-cookie", "body", "raw_body", "payload", "content", "text", "phone", "customer_phone",
        "email", "api_key", "master_key", "dsn",
    ],
)  # fmt: skip
def test_values_under_sensitive_names_are_replaced(name: str, out: io.BytesIO) -> None:
    """Wherever they stand: at the top, in a mapping, in a list of mappings."""
    configure_logging("info", "json", out)
    structlog.get_logger().info(
        "x", **{name: "hunter2"}, headers={name: "hunter2"}, many=[{name: ["hunter2"]}]
    )
    [line] = lines(out)
    assert line[name] == REDACTED
    assert "hunter2" not in out.getvalue().decode()


def test_facts_about_sensitive_things_stay(out: io.BytesIO) -> None:
    """Sizes, ids and kinds of what is secret are what an operator needs."""
    configure_logging("info", "json", out)
    kept = {
        "body_bytes": 12,
        "token_id": 5,
        "content_type": "image/png",
        "key": "a",
        "conversation": 9,
        "text_length": 3,
    }
    structlog.get_logger().info("x", **kept)
    [line] = lines(out)
    assert {name: line[name] for name in kept} == kept


def test_urls_lose_user_password_and_query(out: io.BytesIO) -> None:
    """Host and path say enough; the rest is where credentials travel."""
    configure_logging("info", "json", out)
    structlog.get_logger().info("x", url="https://u:hunter2@cdn.example.com/m/1?sig=hunter2#hunter2")
    [line] = lines(out)
    assert line["url"] == "https://cdn.example.com/m/1"


def test_no_value_costs_its_line(out: io.BytesIO) -> None:
    """What cannot be rendered is shown as well as it can be, and the line is there."""

    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("no")

        __str__ = __repr__

    loop: list[object] = []
    loop.append(loop)
    configure_logging("info", "json", out)
    log = structlog.get_logger()
    log.info("a", value=Broken())
    log.info("b", value=loop)
    log.info("c", value="\ud800")
    log.info("d", value=2**80)
    log.info("e", value=ValueError("bad"), other={1: object})
    assert [line["event"] for line in lines(out)] == ["a", "b", "c", "d", "e"]


def test_an_exception_brings_its_traceback_without_variables(out: io.BytesIO) -> None:
    """The traceback is one field of the line; what the variables held is not in it."""
    configure_logging("info", "json", out)
    try:
        local = "hunter2"
        raise ValueError("bad " + local[:0])
    except ValueError:
        structlog.get_logger().exception("actor.crashed")
    [line] = lines(out)
    assert line["level"] == "error"
    assert "ValueError: bad" in line["exception"]


def test_the_console_layout_shows_no_variables_either(out: io.BytesIO) -> None:
    """For people, with the traceback, without what was being handled."""
    configure_logging("info", "console", out)
    try:
        secret = "hunter" + str(len("ab"))
        raise ValueError("bad" + secret[:0])
    except ValueError:
        structlog.get_logger().exception("actor.crashed", token="hunter2")
    shown = out.getvalue().decode()
    assert "actor.crashed" in shown
    assert "ValueError: bad" in shown
    assert "hunter2" not in shown


def test_auto_means_json_away_from_a_terminal(out: io.BytesIO) -> None:
    """A pipe or a file gets JSON lines."""
    configure_logging("info", "auto", out)
    structlog.get_logger().info("x")
    assert lines(out)[0]["event"] == "x"


def test_libraries_write_the_same_lines(out: io.BytesIO) -> None:
    """Records of the standard library's logging come out in our shape, request logs of httpx do not."""
    configure_logging("info", "json", out)
    logging.getLogger("hypercorn.error").warning("Running on %s", "http://x")
    logging.getLogger("httpx").info("HTTP Request: GET https://cdn/?sig=hunter2")
    [line] = lines(out)
    assert (line["event"], line["logger"], line["message"], line["level"]) == (
        "library.logged",
        "hypercorn.error",
        "Running on http://x",
        "warning",
    )


def test_configuring_twice_writes_each_line_once(out: io.BytesIO) -> None:
    """The second call replaces the first."""
    configure_logging("info", "json", out)
    configure_logging("info", "json", out)
    logging.getLogger("some.library").warning("once")
    assert len(lines(out)) == 1
