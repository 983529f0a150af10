"""The Overview page: what runs now, the table of runs, and what is done with the chosen ones."""
