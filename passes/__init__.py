"""Passes: small graph rewrites, one a file, each with a name and typed options."""
