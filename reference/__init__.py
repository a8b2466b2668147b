"""Simulated receivers, the reference model trained on them, and its evaluation against the exact Bayes bound."""
