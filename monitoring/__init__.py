"""Drift between a release's training data and now, and the rule that decides to retrain."""
