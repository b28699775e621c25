"""What people and programs ask of a run that exists: to stop, to be done again, to go on.

One rule: a request that is answered with yes is a fact of the run.
"""

from __future__ import annotations


class RequestRefused(Exception):
    """It cannot be done; the message is for the caller."""


class UnknownRun(RequestRefused):
    """There is no such run."""


class NotNow(RequestRefused):
    """The run is not in a state in which that could be done."""
