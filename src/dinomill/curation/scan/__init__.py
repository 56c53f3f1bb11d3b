"""Every file looked at once: what it is, whether it can be used, what it looks like."""
