"""``suite top``: what the fleet does now, in a terminal. `screen.py` shows what `now.py` knows."""
