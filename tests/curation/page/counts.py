"""Files by group, fate and reason, as the page draws them."""

COUNTS = {
    ("pool", "quarantined", "truncated"): 6,
    ("pool", "quarantined", "empty"): 4,
    ("pool", "near_duplicate", "near_duplicate:signature"): 20,
    ("seeds:ours", "evaluation_overlap", "evaluation_overlap:same_bytes"): 2,
    ("pool", "kept", ""): 60,
    ("seeds:ours", "kept", "as_is"): 8,
}
