"""The Sweeps page: the list, one sweep's views and buttons, and the form."""
