"""Every type that crosses a process: actions, signals, events, and what node and actor say to each other."""
