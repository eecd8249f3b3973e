"""The tests: unit (no I/O), conformance (each on SQLite and PostgreSQL), system (processes), and their support."""
