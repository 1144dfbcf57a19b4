"""Read models: folds of the log into SQLite files. Delete one, and it comes back the same."""
