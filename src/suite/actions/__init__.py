"""The handlers of the actions, one module for each group; each handler is a few lines that call the node."""
