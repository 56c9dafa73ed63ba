"""What lies outside of the workflow: SLURM, the model hub, and whether a config can run here."""
