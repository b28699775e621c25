"""The door: hooks of forges, the API and later the pages; knows `runner` and `storage`."""
