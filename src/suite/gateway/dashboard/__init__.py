"""The dashboard: a page in the browser, live over one stream of events (ADR 76).

Its files are served as they are. What they show comes from actions and the log, as any client gets it.
"""
