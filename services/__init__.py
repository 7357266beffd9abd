"""Floor 3: release registry on the BentoML model store, the HTTP service, its journal, Bentos."""
