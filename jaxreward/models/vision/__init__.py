"""Networks that look at images: towers, scorers, detectors, distances."""
