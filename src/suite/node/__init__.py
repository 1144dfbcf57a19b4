"""The process of a node: puts it together, and everything that runs in it beside the actions."""
