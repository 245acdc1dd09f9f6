"""The original model with a treatment, in spans, in another precision: what a proof runs."""
