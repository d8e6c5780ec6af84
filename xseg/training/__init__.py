"""The one training loop and what it needs: schedules, optimisers, sample order, checkpoints."""
