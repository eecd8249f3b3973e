"""What tests need to stand on: a PostgreSQL server, the platform's schema, its rows, and processes."""
