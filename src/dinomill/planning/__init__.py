"""Looking at images, machine and weights before anything runs: what to configure, what it will take, what cannot work."""
