"""Measurements and full-count proofs; each is run by a command that README.md here names."""
