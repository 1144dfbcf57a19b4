"""The types of the actions, a module for what belongs together; `base` says what all have in common."""
