"""The Monitor page: one run's head, actions, checkpoints and log."""
