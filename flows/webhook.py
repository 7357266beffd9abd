"""Alerts leave the house: Prefect automations that post our events, and failed runs, to a webhook.

The server posts them itself, five seconds at most each; one that cannot be delivered is an event
`prefect.automation.action.failed` in its feed, and fails no flow.
"""

import os
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from contracts.errors import SettingsError
from contracts.settings import Settings
from flows.alerts import EVENTS

URL_VARIABLE: Final = "AMALGAM_WEBHOOK_URL"
BLOCK: Final = "amalgam-alerts"
TOLD: Final = "Alerts to the webhook"
FAILED: Final = "Failed runs to the webhook"
FAILURES: Final = (
    "prefect.flow-run.Failed",
    "prefect.flow-run.Crashed",
    "prefect.flow-run.TimedOut",
)
TAG: Final = "amalgam"
"""What all our deployments carry, and with them their runs."""

_COMMON: Final = (
    '"event": {{ event.event | tojson }}, "id": {{ event.id | string | tojson }}, '
    '"occurred": {{ event.occurred | string | tojson }}, '
    '"resource": {{ event.resource.id | tojson }}'
)
_TOLD: Final = f'{{{_COMMON}, "text": {{{{ event.payload.text | tojson }}}}, '
_TOLD_BODY: Final = _TOLD + '"details": {{ event.payload | tojson }}}'
_FAILED_TEXT: Final = (
    "(event.resource.name or event.resource.id) ~ ' ended as ' ~ event.payload.validated_state.name"
    " ~ ': ' ~ event.payload.validated_state.message"
)
_FAILED_BODY: Final = (
    f'{{{_COMMON}, "text": {{{{ ({_FAILED_TEXT}) | tojson }}}}, '
    '"details": {{ event.payload.validated_state | tojson }}}'
)


def webhook_url(settings: Settings) -> str | None:
    """Return where alerts go: AMALGAM_WEBHOOK_URL, else the settings; None: nowhere.

    Raises:
        SettingsError: it is no http address. The message does not repeat it: it may hold a secret.
    """
    url = (os.environ.get(URL_VARIABLE) or settings.operations.webhook_url).strip()
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise SettingsError(
            f"{URL_VARIABLE} (or operations.webhook_url) is not a web address; "
            "write it like https://hooks.example.org/T0123"
        )
    return url


def register_webhook(url: str | None) -> None:
    """Make the server's automations post to `url`, or to nowhere (None); again: nothing more."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        known = {
            name: found[0].id
            for name in (TOLD, FAILED)
            if (found := client.read_automations_by_name(name))
        }
        wanted = [] if url is None else _automations(_saved_block(url))
        for automation in wanted:
            if automation.name in known:
                client.update_automation(known[automation.name], automation)
            else:
                client.create_automation(automation)
        for name in {TOLD, FAILED} - {automation.name for automation in wanted}:
            if name in known:
                client.delete_automation(known[name])
    if url is None:
        _forget_block()


def _saved_block(url: str) -> Any:
    """Store the address in Prefect's database, encrypted as its secrets are; return its id."""
    from prefect.blocks.webhook import Webhook

    headers = {"Content-Type": "application/json", "User-Agent": "amalgam"}
    block = Webhook(method="POST", url=url, headers=headers)
    return block.save(BLOCK, overwrite=True)


def _forget_block() -> None:
    from prefect.blocks.webhook import Webhook

    try:
        Webhook.delete(BLOCK)
    except ValueError:  # there is none
        return


def _automations(block: Any) -> list[Any]:
    from prefect.events.actions import CallWebhook
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    at_once: dict[str, Any] = {
        "posture": Posture.Reactive,
        "threshold": 1,
        "within": timedelta(0),
    }
    ours = EventTrigger(expect=set(EVENTS), **at_once)
    runs = EventTrigger(
        expect=set(FAILURES),
        match_related={
            "prefect.resource.role": "tag",
            "prefect.resource.id": f"prefect.tag.{TAG}",
        },
        **at_once,
    )
    return [
        AutomationCore(
            name=name,
            description="Made by Amalgam from [operations] webhook_url; made anew when it starts.",
            trigger=trigger,
            actions=[CallWebhook(block_document_id=block, payload=body)],
        )
        for name, trigger, body in ((TOLD, ours, _TOLD_BODY), (FAILED, runs, _FAILED_BODY))
    ]
