"""The Launch page: the form of a run, the check of its data, its measurement."""
