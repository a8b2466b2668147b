"""Rollout: from a registry alias to 100 % of the traffic or back, on evidence."""
