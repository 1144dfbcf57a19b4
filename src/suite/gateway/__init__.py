"""The gateway: the fleet over HTTP, for clients of other APIs. It is a client of the service like any other."""
