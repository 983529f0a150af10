"""The Errors page: misspelled words of one model, or of two beside each other."""
