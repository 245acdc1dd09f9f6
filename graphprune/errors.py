"""The errors graphprune raises. Every message is one sentence: what is wrong, where, and what to do."""

from __future__ import annotations


class GraphPruneError(Exception):
    """Root of all errors raised on purpose by graphprune."""


class InputError(GraphPruneError):
    """The model, the file or an option given by the user cannot be used (exit code 2)."""


class TargetError(InputError):
    """The requested target cannot be reached; the message says how far it can go (exit code 2)."""


class PassError(GraphPruneError):
    """A pass, or the rule of a node in it, failed or broke the graph: a bug, whose message names both (exit code 3)."""


class VerificationError(GraphPruneError):
    """The pruned model does not compute what the masked original computes (exit code 1)."""


class OwnClassError(VerificationError):
    """The caller's own class was required, and cannot hold the result; the message says why (exit code 1)."""


class BackendError(GraphPruneError):
    """A runtime is missing or cannot run the model; the message says what to install (exit code 2)."""


class UnsupportedError(BackendError):
    """A runtime lacks the kernel of an operator, or its kernel refuses operands; the message names the node."""
