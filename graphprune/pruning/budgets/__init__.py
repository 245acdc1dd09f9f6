"""Budgets: what a caller asks for, and the choice that meets it."""
