"""From a request to the tokens of its prompt, and from an answer to its tool calls."""
