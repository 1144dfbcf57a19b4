"""The gateway: the fleet over HTTP, for clients of other APIs. It is itself a client of the service."""
