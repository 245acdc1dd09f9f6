"""From a module to an exported program: wrappers, states, sub-modules, what an exporter cannot follow."""
