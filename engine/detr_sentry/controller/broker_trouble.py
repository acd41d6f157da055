"""Why there is no connection to the broker, in words that say what to do. Pure."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detr_sentry.settings import MqttSettings


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why there is no connection. `refused`: it takes a person to put it right, so there is no hurry."""

    text: str
    refused: bool = False


def explain(error: Exception, code: int | None, settings: MqttSettings, *, client_id: str, who: str) -> Trouble:
    """The trouble behind an error. `code` is the broker's reason (MQTT 5, section 2.4) if it gave one."""
    if code is not None and code > 0x80:
        refusal = _refusal(code, settings, client_id, who)
        if refusal is not None:
            return Trouble(refusal, refused=True)
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"its certificate is not trusted: {error.verify_message}: check mqtt.tls.ca_file and mqtt.host"
        return Trouble(text, refused=True)
    if isinstance(error, FileNotFoundError):
        return Trouble(f"mqtt.tls.ca_file {settings.tls.ca_file} is not there", refused=True)
    if isinstance(error, ssl.SSLError):
        return Trouble(f"no encrypted connection: {error.reason or error}: check mqtt.tls and mqtt.port")
    if isinstance(error, TimeoutError):
        return Trouble("does not answer")
    if isinstance(error, OSError):
        return Trouble(f"cannot be reached: {error.strerror or error}")
    return Trouble(f"connection lost: {error.__cause__ or error}")


def _refusal(code: int, settings: MqttSettings, client_id: str, who: str) -> str | None:
    match code:
        case 0x84:
            other = "3.1.1" if settings.protocol == "5" else "5"
            return f"does not speak MQTT {settings.protocol}: set mqtt.protocol to {other!r}"
        case 0x85 | 0x8A:
            return f"refuses the client id {client_id} (code {code})"
        case 0x86 | 0x87 | 0x8C:
            return f"refuses {who}: check mqtt.username, mqtt.password and the broker's access list"
        case 0x8E:
            return f"another client has taken the client id {client_id}: does a copy of this engine run?"
        case _:
            return None
