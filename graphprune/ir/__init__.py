"""The framework-neutral intermediate representation: values, nodes of canonical kinds, weights (see `docs/ir.md`)."""
