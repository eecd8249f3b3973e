"""Requests that are handed over together leave one after the other, and none waits for one that stands still."""

from __future__ import annotations

import asyncio

from gepp_audit.provider.transport import Attempt, Turnstile


async def _left(turnstile: Turnstile, name: str, order: list[str], events: list[str]) -> None:
    """A request that writes in several steps, each of which lets the others run."""
    attempt = Attempt(send_before=float("inf"), leave=await turnstile.enter())
    for event in events:
        await asyncio.sleep(0)
        order.append(name)
        await attempt.trace(event, {})


def _run(events: list[str]) -> list[str]:
    order: list[str] = []

    async def all_of_them() -> None:
        turnstile = Turnstile()
        await asyncio.wait_for(asyncio.gather(*(_left(turnstile, name, order, events) for name in "abc")), 30)

    asyncio.run(all_of_them())
    return order


def test_each_request_is_out_before_the_next_one_is_made() -> None:
    writing = ["http11.send_request_headers.complete", "http11.send_request_body.complete"]
    assert "".join(_run(writing)) == "aabbcc"


def test_one_that_waits_for_a_connection_lets_the_next_one_pass() -> None:
    connecting = [
        "connection.connect_tcp.started",
        "connection.connect_tcp.complete",
        "http11.send_request_body.complete",
    ]
    assert "".join(_run(connecting)) != "aaabbbccc"


def test_one_whose_bytes_nobody_takes_keeps_no_other_away() -> None:
    stuck = ["http11.send_request_headers.complete"]  # and never out
    assert sorted(_run(stuck)) == ["a", "b", "c"]
