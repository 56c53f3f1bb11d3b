"""What the seeds ask for, in the balance that is wanted."""
