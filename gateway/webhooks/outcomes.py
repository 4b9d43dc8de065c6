"""How requests end: one line and one count for each, and the answer that goes with it."""

import logging
from collections.abc import Sequence

import structlog
import trio

from engine.domain.intake import DeliveryReceipt
from engine.errors import MijraError, Unauthenticated
from gateway import envelope
from gateway.in_flight import OVER_SHARE
from gateway.metrics import Metrics
from gateway.problems import failure_of
from gateway.webhooks import answers
from gateway.webhooks.answers import Answer
from gateway.webhooks.receivers import Served
from gateway.webhooks.sorting import Sorted
from gateway.webhooks.work import Work

_log = structlog.get_logger()


class MethodNotAllowed(Exception):
    """Neither a handshake nor a POST."""


class Outcomes:
    """Answers are without the request's id."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def note_refused(self, work: Work, events: Sorted) -> None:
        """Count and log the events of accounts that did not sign. Raises Unauthenticated if there are no
        others."""
        if not events.refused:
            return
        self._metrics.webhook_events.labels(work.platform, "refused").inc(events.refused)
        _log.warning("webhook.events_refused", refused=events.refused, **work.fields())
        if not events.groups and not events.unrouted:
            raise Unauthenticated("The signature is not that of the accounts named.", code="bad_signature")

    def note_unrouted(self, work: Work, events: Sorted) -> None:
        self._metrics.webhook_events.labels(work.platform, "unrouted").inc(len(events.unrouted))

    def delivered(
        self, work: Work, served: Served, events: Sorted, receipts: Sequence[DeliveryReceipt]
    ) -> Answer:
        metrics = self._metrics
        metrics.child(metrics.webhook_events, work.platform, "accepted").inc(events.stored())
        return self.accepted(
            work,
            served,
            "unrouted" if events.unrouted and not events.groups else "accepted",
            stored=sum([receipt.stored for receipt in receipts]),
            duplicates=sum([receipt.duplicates for receipt in receipts]),
            parked=sum([receipt.parked for receipt in receipts]),
            unrouted=len(events.unrouted),
            refused=events.refused,
        )

    def accepted(self, work: Work, served: Served, outcome: str, **said: object) -> Answer:
        """A delivery that was taken; `said` goes into its line."""
        self._count(work, outcome)
        metrics = self._metrics
        metrics.child(metrics.webhook_seconds, work.platform).observe(trio.current_time() - work.started)
        if _log.is_enabled_for(logging.INFO):
            shown = {name: value for name, value in said.items() if value}
            event = "webhook.accepted" if outcome == "accepted" else f"webhook.{outcome}"
            _log.info(event, **work.fields(), **shown)
        return served.accepted

    def verified(self, work: Work, challenge: bytes) -> Answer:
        """A handshake with a token of ours."""
        self._count(work, "handshake")
        _log.info("webhook.verified", **work.fields())
        return Answer(
            status=200,
            # Without sniffing: the text is the caller's own.
            headers={"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"},
            body=challenge,
        )

    def not_verified(self, work: Work) -> Answer:
        """A handshake with another token."""
        failure = envelope.Failure(
            status=403, code="forbidden", message="The verify token is not one of ours."
        )
        return self._refused(work, failure, "verify_token")

    def failed(self, work: Work, error: Exception) -> Answer:
        """Whatever went wrong."""
        if isinstance(error, MethodNotAllowed):
            failure = envelope.Failure(
                status=405,
                code="method_not_allowed",
                message="Webhooks take GET (the handshake) and POST.",
                headers={"Allow": "GET, POST"},
            )
            return self._refused(work, failure, "method_not_allowed")
        failure = failure_of(error)
        if not isinstance(error, MijraError | trio.TooSlowError):
            _log.error("webhook.crashed", exc_info=error, **work.fields())
            self._count(work, "crashed")
            return answers.failed(failure)
        reason = error.code if isinstance(error, MijraError) else "timeout"
        if failure.status >= 500 and reason != OVER_SHARE:
            return self._unavailable(work, failure, reason, error)
        return self._refused(work, failure, reason)

    def _refused(self, work: Work, failure: envelope.Failure, reason: str) -> Answer:
        self._count(work, reason)
        _log.warning("webhook.refused", status=failure.status, reason=reason, **work.fields())
        return answers.failed(failure)

    def _unavailable(self, work: Work, failure: envelope.Failure, reason: str, error: Exception) -> Answer:
        self._count(work, "unavailable")
        _log.error(
            "webhook.unavailable", status=failure.status, reason=reason, why=str(error), **work.fields()
        )
        return answers.failed(failure)

    def _count(self, work: Work, outcome: str) -> None:
        self._metrics.child(self._metrics.webhook_deliveries, work.platform, outcome).inc()
