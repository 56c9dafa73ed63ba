"""What every part uses: files, errors, locks, provenance, statistics, models."""
