"""Pictures that requests name by a URL: fetched from listed hosts, and held for the processes of models."""
