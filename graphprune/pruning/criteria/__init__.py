"""Criteria: how much each component of a coupled group matters."""
