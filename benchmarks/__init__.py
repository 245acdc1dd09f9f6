"""Scripts that print the tables under `docs/measurements/`; peers are measured beside graphprune in the same run."""
