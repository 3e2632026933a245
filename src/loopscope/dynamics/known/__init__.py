"""The verification rows: systems with known answers, run through the functions that measure the networks."""
