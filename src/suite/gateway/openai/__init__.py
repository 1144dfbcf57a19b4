"""OpenAI's API, as its clients and those of many other servers speak it."""
