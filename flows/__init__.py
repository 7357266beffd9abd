"""Floor 4: Prefect flows, the command line, and the demo. Read pipeline.py first."""
