"""What the probabilities are worth: posteriors, costs and decisions, scoring rules, calibration, intervals."""
