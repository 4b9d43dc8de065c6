"""Celery as a team would use it to keep a platform's limit: a task with a `rate_limit`, one worker.

The limit is the worker's (a token bucket for each kind of task in each worker process), so there is one
worker, with threads, since the work is waiting for the platform. Celery has no limit for a recipient.
"""

import os
from typing import Any, Final

import httpx
from celery import Celery

RATES: Final = (80, 1000)

app = Celery("pacing", broker=f"redis+socket://{os.environ['PEER_REDIS_SOCKET']}")
app.conf.update(
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    # Redis only; nobody asks how the worker is.
    worker_send_task_events=False,
)
_client = httpx.Client(limits=httpx.Limits(max_connections=256, max_keepalive_connections=256))


def _send(url: str, body: dict[str, Any]) -> None:
    _client.post(url, json=body, headers={"Authorization": "Bearer token"}).raise_for_status()


@app.task(name="send_80", rate_limit="80/s")
def send_80(url: str, body: dict[str, Any]) -> None:
    _send(url, body)


@app.task(name="send_1000", rate_limit="1000/s")
def send_1000(url: str, body: dict[str, Any]) -> None:
    _send(url, body)
