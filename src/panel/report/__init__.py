"""Reports: runs or a sweep as one page that needs no server, and as a LaTeX table."""
