"""The login of the panel, and the guard that keeps its readers from changing things."""
