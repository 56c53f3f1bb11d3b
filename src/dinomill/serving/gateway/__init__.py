"""The front that clients speak to: it owns the public port, and forwards to one model server behind it."""
