"""Features through Feast, which whatever is imported from here finds imported, and quickly."""

from feature_repo.quick_feast import import_feast

import_feast()
