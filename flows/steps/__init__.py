"""The steps of the flows as plain functions: they join the lower floors and know nothing of
Prefect.

Heavy libraries are imported inside the steps, so that a run pays only for what it uses.
"""
