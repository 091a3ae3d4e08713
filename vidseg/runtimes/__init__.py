"""One module a runtime: each imports one inference library and makes an ``Engine`` of it."""
