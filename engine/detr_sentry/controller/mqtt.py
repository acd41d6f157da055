"""The connection to the broker: kept, lost, explained and made again. The only place that names aiomqtt.

Every failure is logged once, with what to do; repeats go to DEBUG. What the broker takes from us comes out of an
`Outbox`, one message at a time and acknowledged, so that a slow broker slows nothing but itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from detr_sentry.controller.backoff import STABLE_S, BackOff, Complaints
from detr_sentry.controller.broker_trouble import Trouble, explain
from detr_sentry.controller.topics import OFFLINE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from detr_sentry.controller.outbox import Message, Outbox
    from detr_sentry.settings import MqttSettings

    OnMessage: TypeAlias = Callable[[str, bytes, bool], None]

KEEPALIVE_S = 15  # the broker publishes our will after one and a half of it
CONNECT_TIMEOUT_S = 5.0
SEND_TIMEOUT_S = 10.0
PICTURE_TIMEOUT_S = 60.0  # over a slow line; a dead one is noticed by the kernel
UNACKNOWLEDGED_MS = 20_000
FAREWELL_S = 0.5  # of the second that a service has to end in
ASK_AGAIN_S = 300.0  # what the broker did not allow
COMPLAIN_EVERY_S = 3600.0
MAX_INCOMING_BYTES = 1 << 16  # MQTT 5: the broker keeps larger ones to itself
MAX_INCOMING = 256
SUSPICIOUS = 3  # connections that the broker ended within STABLE_S, one after the other
_PICTURE_BYTES = 1 << 16
_ENDED = 0x80  # paho's word for a connection that was closed without a reason

_T = TypeVar("_T")

_log = logging.getLogger("detr_sentry.controller")
_quiet = logging.getLogger("detr_sentry.controller.paho")
_quiet.setLevel(logging.ERROR)  # it warns of every message in a flood


class LinkState(StrEnum):
    """Where the connection stands."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    LOST = "lost"
    REFUSED = "refused"


class _Client(aiomqtt.Client):
    """aiomqtt's client, which also keeps what the broker said to a publication, and ends a half-made connection."""

    refusal: str | None = None

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: ReasonCode, properties: Any) -> None:
        if reason_code.is_failure:
            self.refusal = str(reason_code)
        super()._on_publish(client, userdata, mid, reason_code, properties)

    def expect_the_end(self) -> None:
        """Nobody may be waiting when the connection ends; that is no error of its own."""
        self._disconnected.add_done_callback(lambda future: future.cancelled() or future.exception())

    def abandon(self) -> None:
        """Close the socket of a connection that was never made."""
        self.expect_the_end()
        self._client.disconnect()


class BrokerLink:
    """Connects, subscribes, calls `on_connected`, and sends and receives until cancelled; again and again.

    `will` is the topic that says `offline` when we are gone. `on_message(topic, payload, retained)` and
    `on_sent(message)` are called in the loop; `before_send(message)` is awaited before each retained publication.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        client_id: str,
        will: str,
        subscriptions: Sequence[str],
        outbox: Outbox,
        on_connected: Callable[[], None],
        on_message: OnMessage,
        before_send: Callable[[Message], Awaitable[None]],
        on_sent: Callable[[Message], Awaitable[None]],
        backoff: BackOff | None = None,
    ) -> None:
        self.state = LinkState.CONNECTING
        self.error: str | None = None
        self.connections = 0
        self.refused = Complaints(every_s=COMPLAIN_EVERY_S)
        self.wake = asyncio.Event()
        self._settings = settings
        self._client_id = client_id
        self._will = will
        self._subscriptions = subscriptions
        self._outbox = outbox
        self._on_connected = on_connected
        self._on_message = on_message
        self._before_send = before_send
        self._on_sent = on_sent
        self._backoff = backoff or BackOff()
        self._told: str | None = None
        self._short = 0
        self._name = f"MQTT broker {settings.host}:{settings.effective_port}"
        self._who = f"user {settings.username}" if settings.username else "a client without user name"

    async def run(self) -> None:
        """Keep the connection until cancelled."""
        while True:
            connections, since_s = self.connections, time.monotonic()
            trouble, ended = Trouble("the connection has ended"), False
            try:
                await self._session()
            except (aiomqtt.MqttError, OSError, UnicodeError) as error:  # a host name may not be one
                trouble = self._explain(error)
                ended = _code_of(error) == _ENDED
            lasted_s = time.monotonic() - since_s if self.connections > connections else None
            trouble = self._suspect(trouble, lasted_s, ended=ended)
            pause_s = self._backoff.pause_s(refused=trouble.refused)
            self.state = LinkState.REFUSED if trouble.refused else LinkState.LOST
            self.error = trouble.text
            level = logging.DEBUG if trouble.text == self._told else logging.WARNING
            _log.log(level, "%s: %s; trying again in %.1f s", self._name, trouble.text, pause_s)
            self._told = trouble.text
            await asyncio.sleep(pause_s)

    def _suspect(self, trouble: Trouble, lasted_s: float | None, *, ended: bool) -> Trouble:
        """The trouble, or what else it must be where the broker ends one short connection after the other.

        Few brokers say that another client has come with our id; to both it looks like this. `lasted_s` is None where
        there was no connection.
        """
        if lasted_s is not None:
            self._backoff.lasted(lasted_s)
        self._short = self._short + 1 if lasted_s is not None and lasted_s < STABLE_S and ended else 0
        if self._short < SUSPICIOUS:
            return trouble
        text = f"ends every connection soon: does another client use the client id {self._client_id}?"
        return Trouble(text, refused=True)

    async def _session(self) -> None:
        tls = await asyncio.to_thread(self._tls) if self._settings.tls.enabled else None
        await self._knock(tls)
        client = self._client(tls)
        try:
            await _wholly(client.__aenter__())
        except BaseException:
            client.abandon()
            raise
        client.expect_the_end()
        try:
            await self._subscribe(client)
            self.state, self.error = LinkState.CONNECTED, None
            self.connections += 1
            _log.info("%s: connected as %s", self._name, self._client_id)
            self._told = None
            self._on_connected()
            await until_one_ends(self._receive(client), self._send(client), self._ask_again(client))
        except asyncio.CancelledError:
            await self._farewell(client)
            raise
        finally:
            self.state = LinkState.LOST
            with contextlib.suppress(aiomqtt.MqttError):  # what ended the session is what counts
                await _wholly(client.__aexit__(None, None, None))

    def _tls(self) -> ssl.SSLContext:
        settings = self._settings.tls
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    async def _knock(self, tls: ssl.SSLContext | None) -> None:
        """Whether anybody answers. The library connects in a thread, which nobody can stop when the service must."""
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _reader, writer = await asyncio.open_connection(
                self._settings.host, self._settings.effective_port, ssl=tls, ssl_handshake_timeout=None
            )
        writer.transport.abort()  # an orderly end in TLS would wait for the broker's
        await asyncio.sleep(0)

    def _client(self, tls: ssl.SSLContext | None) -> _Client:
        settings = self._settings
        assert settings.host is not None
        properties = None
        protocol = aiomqtt.ProtocolVersion.V311
        if self._is_5:
            protocol = aiomqtt.ProtocolVersion.V5
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.MaximumPacketSize = MAX_INCOMING_BYTES
        return _Client(
            settings.host,
            settings.effective_port,
            username=settings.username,
            password=settings.password,
            logger=_quiet,
            identifier=self._client_id,
            protocol=protocol,
            will=aiomqtt.Will(self._will, OFFLINE, qos=1, retain=True),
            timeout=CONNECT_TIMEOUT_S,
            keepalive=KEEPALIVE_S,
            max_queued_incoming_messages=MAX_INCOMING,
            properties=properties,
            tls_context=tls,
            socket_options=[
                (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
                (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS),
            ],
        )

    @property
    def _is_5(self) -> bool:
        return self._settings.protocol == "5"

    async def _subscribe(self, client: _Client) -> None:
        for topic in self._subscriptions:
            # A retained command must be seen as such also when it comes while we listen, which MQTT 3.1.1 cannot say.
            options = SubscribeOptions(qos=1, retainAsPublished=True) if self._is_5 else None
            codes = await _wholly(client.subscribe(topic, qos=0 if options else 1, options=options))
            if any((code.value if isinstance(code, ReasonCode) else code) >= 0x80 for code in codes):
                self._complain(topic, "read")

    async def _receive(self, client: _Client) -> None:
        async for message in client.messages:
            self._on_message(str(message.topic), bytes(message.payload), bool(message.retain))

    async def _send(self, client: _Client) -> None:
        while True:
            message = self._outbox.take()
            if message is None:
                self.wake.clear()
                await self.wake.wait()
                continue
            try:
                if message.retain:
                    await self._before_send(message)
                client.refusal = None
                large = len(message.payload) > _PICTURE_BYTES
                timeout_s = PICTURE_TIMEOUT_S if large else SEND_TIMEOUT_S
                await _wholly(
                    client.publish(message.topic, message.payload, qos=1, retain=message.retain, timeout=timeout_s)
                )
            except BaseException:
                self._outbox.returned(message)
                raise
            if client.refusal is not None:
                self._outbox.refused(message)
                self._complain(message.topic, "write")
                continue
            self._outbox.done(message)
            await self._on_sent(message)

    async def _ask_again(self, client: _Client) -> None:
        while True:
            await asyncio.sleep(ASK_AGAIN_S)
            if self.refused.total:
                await self._subscribe(client)
                self._outbox.retry_refused()

    def _complain(self, topic: str, what: str) -> None:
        if self.refused.admit(what, time.monotonic()) is not None:
            _log.warning(
                "%s: %s may not %s %s: allow it in the broker's access list (ACL); tried again every %d s",
                self._name,
                self._who,
                what,
                topic,
                ASK_AGAIN_S,
            )

    async def _farewell(self, client: _Client) -> None:
        """Say that we are gone: a broker publishes the will only of those who leave without a word."""
        client.timeout = FAREWELL_S
        with contextlib.suppress(aiomqtt.MqttError):
            await _wholly(client.publish(self._will, OFFLINE, qos=1, retain=True))

    def _explain(self, error: Exception) -> Trouble:
        return explain(error, _code_of(error), self._settings, client_id=self._client_id, who=self._who)


def _code_of(error: BaseException | None) -> int | None:
    """The broker's own reason (MQTT 5 codes, also for 3.1.1); None if it gave none."""
    while error is not None:
        if isinstance(error, aiomqtt.MqttCodeError) and isinstance(error.rc, ReasonCode):
            return int(error.rc.value)
        error = error.__cause__
    return None


async def _wholly(work: Awaitable[_T]) -> _T:
    """What `work` gives. The library waits by `asyncio.wait_for`, which before Python 3.12 can lose a cancellation."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        raise
    return task.result()


async def until_one_ends(*works: Any) -> None:
    """Run coroutines until one of them fails; end the others, and raise its error."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
