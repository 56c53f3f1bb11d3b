"""Quality gates: tables of any stage, held against suites of Great Expectations."""
