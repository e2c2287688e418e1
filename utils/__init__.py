"""What every stage shares: errors, files, checkpoints, device, seeds, metrics, pictures."""
