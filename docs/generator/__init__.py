"""Makes the reference pages of the site from the code, so that they cannot differ. See `docs/hooks.py`."""
