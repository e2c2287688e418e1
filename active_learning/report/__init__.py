"""The report of a trial: one page that opens from disk and needs nothing else."""
