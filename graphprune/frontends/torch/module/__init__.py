"""The caller's own class with the pruned sizes, where it computes what the graph computes."""
