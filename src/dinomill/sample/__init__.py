"""The embedded sample: real photographs laid out as the messy pool that a team really has."""
