"""Before anything runs: images, machine and weights; what to configure, what it will take, what cannot work."""
