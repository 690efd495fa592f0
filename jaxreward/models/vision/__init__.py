"""Networks that look at pictures: towers, scorers, detectors, distances."""
