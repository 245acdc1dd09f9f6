"""What the commands do: passes in order, the proof, one result."""
