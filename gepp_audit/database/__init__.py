"""All SQL: how our tables and the platform's are created, read and written, on PostgreSQL and on SQLite."""
