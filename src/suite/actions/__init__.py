"""The handlers of the actions, one module a group: each is a few lines over the node's parts."""
