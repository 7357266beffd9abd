"""Floor 0: names, schemas, errors, pseudonyms, settings and wire types that all folders share."""
