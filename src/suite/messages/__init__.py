"""Every type that crosses a process: actions, signals, events, and the messages between node and actor."""
