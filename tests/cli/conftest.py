"""The fixtures of `served_door`, and `dagmill` asking it."""

from command_line import dagmill
from served_door import address, anyone, app, doors, in_force, person, store, world

__all__ = [
    "address",
    "anyone",
    "app",
    "dagmill",
    "doors",
    "in_force",
    "person",
    "store",
    "world",
]
