"""What travels from node to node through the object store: the files of models (ADR 61)."""
