"""The one door to NATS: connection, micro service, embedded server, leases."""
