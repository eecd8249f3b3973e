"""The database layer and what stands on it: each test on SQLite and on both versions of the platform."""
