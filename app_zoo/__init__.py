"""Environments with their shipped configurations; they use nervex, nervex never imports them."""
