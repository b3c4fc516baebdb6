"""What a machine can do for a job: measured in seconds, then one bottleneck and what would move it."""
