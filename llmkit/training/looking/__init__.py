"""What a run shows of itself: pictures, a page, samples; and runs beside each other."""
