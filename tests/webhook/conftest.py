"""The fixtures of `served_door`."""

from served_door import address, anyone, app, doors, in_force, person, store, world

__all__ = ["address", "anyone", "app", "doors", "in_force", "person", "store", "world"]
