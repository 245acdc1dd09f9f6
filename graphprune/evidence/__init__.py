"""What a proof rests on: inputs that make a model speak, what float arithmetic does to it, and how results compare."""
