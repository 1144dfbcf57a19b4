"""The processes: the node, which keeps the instances, and the actor that runs one loaded model."""
