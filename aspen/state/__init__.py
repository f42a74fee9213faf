"""Replicated state: the LMDB store, the commands that change it, and the machine that applies them."""
