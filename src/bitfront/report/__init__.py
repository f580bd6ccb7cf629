"""Records -> tables, plots and one page."""
