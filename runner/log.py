"""structlog for `serve`: one line per fact on stderr, called once by the command.

A terminal gets aligned, coloured lines, a pipe gets JSON. Its rule: nothing else configures
logging, and library loggers below WARNING stay silent.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TextIO, cast

import structlog


class _Patient:
    """A stream whose failures are nobody's: who reads the log went away, or its disk is full. The
    work that it tells of must not fail for it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()
        return len(text)

    def flush(self) -> None:
        """Done by `write`."""


def configure(stream: TextIO, *, mask: structlog.typing.Processor | None = None) -> None:
    """Send every event to `stream`; `mask` is a processor that hides secrets in the values."""
    person = stream.isatty()
    patient = cast(TextIO, _Patient(stream))
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if not person:
        processors.append(structlog.processors.format_exc_info)
    if mask is not None:
        processors.append(mask)
    if person:
        processors.append(structlog.dev.ConsoleRenderer(colors=True))
    else:
        processors.append(structlog.processors.JSONRenderer(ensure_ascii=False))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=patient),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(stream=patient, level=logging.WARNING, format="%(levelname)s %(message)s")
