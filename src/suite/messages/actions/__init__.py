"""The request and reply types of the actions, one module for each group; `base` has what all share."""
