"""The schedule never drifts, never bursts and never starves; the back-off grows, is capped and forgives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from detr_sentry.capture.pacing import LOCAL_RETRY, LOGIN_RETRY, NETWORK_RETRY, STABLE_S, Backoff, Pacer

NS = 1_000_000_000
rates = st.floats(0.05, 240, allow_nan=False)
starts = st.integers(0, 2**62)


@given(rates, starts, st.integers(1, 2000))
def test_ticks_lie_on_an_absolute_grid(rate: float, start: int, count: int) -> None:
    pacer = Pacer(rate, start)
    for _ in range(min(count, 50)):
        pacer.take(pacer.due_ns)

    assert abs(pacer.due_ns - start - min(count, 50) * NS / rate) <= 2


@given(rates, starts, st.lists(st.floats(0, 5), min_size=1, max_size=60))
def test_late_takers_neither_burst_nor_drift(rate: float, start: int, delays: list[float]) -> None:
    pacer, now = Pacer(rate, start), start
    for delay in delays:
        now = max(now, pacer.due_ns) + int(delay * NS / rate)
        pacer.take(now)

        assert pacer.due_ns > now
        assert pacer.due_ns - now <= NS / rate + 2
        off_grid = (pacer.due_ns - start) * rate / NS
        assert abs(off_grid - round(off_grid)) < 1e-3 + rate * 2 / NS * (1 + off_grid * 1e-9)


@given(rates, starts, st.integers(0, 10**12))
def test_due_and_wait_agree(rate: float, start: int, later: int) -> None:
    pacer = Pacer(rate, start)
    pacer.take(start)
    now = start + later

    assert pacer.due(now) == (pacer.wait_s(now) == 0.0)


def test_a_new_rate_is_due_at_once_and_the_same_rate_keeps_its_schedule() -> None:
    pacer = Pacer(3.0, 0)
    pacer.take(0)
    pacer.set_rate(3.0, 100)
    assert not pacer.due(100)

    pacer.set_rate(30.0, 200)

    assert pacer.due(200)
    assert 30.0 == pacer.rate


def test_without_a_rate_every_frame_is_due() -> None:
    pacer = Pacer(0.0, 5)
    pacer.take(5)

    assert pacer.due(5)
    assert 0.0 == pacer.wait_s(5)
    assert 5 == pacer.due_ns


def test_missed_ticks_are_not_made_up_for() -> None:
    pacer = Pacer(10.0, 0)
    pacer.take(0)
    pacer.take(950_000_000)

    assert 1_000_000_000 == pacer.due_ns


@given(st.sampled_from([LOCAL_RETRY, NETWORK_RETRY, LOGIN_RETRY]), st.lists(st.floats(0, 1), min_size=30, max_size=30))
def test_delays_grow_to_the_cap_with_jitter(policy: object, chances: list[float]) -> None:
    assert isinstance(policy, type(LOCAL_RETRY))
    backoff = Backoff()
    delays = [backoff.next_s(policy, chance) for chance in chances]

    assert all(0 < delay <= policy.cap_s * (1 + policy.jitter) for delay in delays)
    assert delays[0] <= policy.first_s * (1 + policy.jitter)
    assert delays[-1] >= policy.cap_s * (1 - policy.jitter)


def test_only_a_stable_connection_resets_the_delay() -> None:
    backoff = Backoff()
    for _ in range(10):
        backoff.next_s(NETWORK_RETRY, 0.5)
    backoff.lost(STABLE_S / 2)
    assert NETWORK_RETRY.cap_s == backoff.next_s(NETWORK_RETRY, 0.5)

    backoff.lost(STABLE_S)

    assert NETWORK_RETRY.first_s == backoff.next_s(NETWORK_RETRY, 0.5)
