"""Addresses of files that the panel's server serves besides its pages."""

from importlib.metadata import version

PLOTLY_JS = f"assets/plotly-{version('plotly')}.min.js"
EXPORTS = "exports"  # RUN/WHAT follows, and ?step= of a checkpoint
CURVES = "curves"  # what is new of curves that are drawn
