"""The Machine page: its meters, its money and the form of its settings."""
