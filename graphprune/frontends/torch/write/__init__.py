"""From canonical kinds back to calls of ATen, and to a `torch.fx.GraphModule`."""
