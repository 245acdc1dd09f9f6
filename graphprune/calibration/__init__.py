"""Samples, what a model makes of them, and where large arrays are kept."""
