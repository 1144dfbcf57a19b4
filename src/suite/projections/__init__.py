"""Read models: SQLite files that are built from the log. A deleted one is rebuilt with the same content."""
