"""Product search: BM25F and dense retrieval, fused; typos, relaxation, filters and facets."""
