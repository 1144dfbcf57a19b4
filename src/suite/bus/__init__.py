"""All access to NATS: connection, micro service, embedded server, leases."""
