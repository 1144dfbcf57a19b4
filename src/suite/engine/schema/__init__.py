"""From a JSON schema to a grammar."""
