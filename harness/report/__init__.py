"""Rows to a page, plots and terminal tables; reads rows and the environment, nothing else."""
