"""Proof: a pruned model computes what the original computes with the removed indices masked."""
