"""The process of a node: its assembly, and everything that runs in it besides the actions."""
