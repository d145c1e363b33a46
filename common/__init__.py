"""What scheduler and workers share."""
