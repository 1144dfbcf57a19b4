"""Saved KV states of conversations that left their slot, in memory and on disk."""
