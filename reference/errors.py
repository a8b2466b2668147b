"""What can go wrong here, each as one sentence for the person at the command line.

What belongs here: the hierarchy. What does not: exit codes (`__main__`).

    ReferenceFailed
    ├── ServiceFailed   a server refused, broke off, or answered with something else
    └── PortTaken       the demonstration needs a port that is in use
"""

from __future__ import annotations


class ReferenceFailed(Exception):
    """Something that the user should read in one line."""


class ServiceFailed(ReferenceFailed):
    """A server refused, broke off, or answered with something else than asked."""


class PortTaken(ReferenceFailed):
    """A port that the demonstration needs is in use."""
