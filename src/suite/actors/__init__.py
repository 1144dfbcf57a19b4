"""A model's process: the actor that runs one loaded model, with its own NATS connection."""
