"""Reading a request's body without trusting it: a size cap and a deadline.

Knows bytes, not what they mean. One rule: never more than the cap is held in memory, whatever
Content-Length says or however the body is chunked.
"""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from webhook.problems import Problem

DEADLINE_S = 30.0
DISCARDED_BYTES = 32 * 1024 * 1024  # forges send at most 25 MB
DISCARD_S = 1.0


async def read_capped(
    request: Request, limit_bytes: int, *, deadline_s: float = DEADLINE_S
) -> bytes:
    """The whole body. Problem 413 above `limit_bytes`, 408 if it does not arrive in time."""
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and _exceeds(declared, limit_bytes):
        await _discard(request)
        raise _too_large(limit_bytes)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(deadline_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit_bytes:
                    await _discard(request)
                    raise _too_large(limit_bytes)
                chunks.append(chunk)
    except TimeoutError:
        raise Problem(
            408,
            f"the body did not arrive within {deadline_s:g} s",
            remedy="send it again",
            headers={"Connection": "close"},
        ) from None
    except ClientDisconnect:
        raise Problem(400, "the sender went away before its body was complete") from None
    return b"".join(chunks)


async def _discard(request: Request) -> None:
    """Let a sender finish that is nearly done: one that is cut off never reads the answer."""
    left = DISCARDED_BYTES
    try:
        async with asyncio.timeout(DISCARD_S):
            while left > 0:
                message = await request.receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def _exceeds(digits: str, limit: int) -> bool:
    # int() of some thousand digits raises: a number longer than the limit's text is above it.
    digits = digits.lstrip("0")
    return len(digits) > len(str(limit)) or int(digits or "0") > limit


def _too_large(limit_bytes: int) -> Problem:
    return Problem(
        413,
        f"the body is larger than {limit_bytes} bytes",
        place="body",
        remedy="send less (of a hook nothing is lost: the repository is polled)",
        # The rest of the body is not read, so the connection cannot carry another request.
        headers={"Connection": "close"},
    )
