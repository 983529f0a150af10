"""The Compare page: several runs, their curves, tables and verdicts."""
