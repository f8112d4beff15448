"""`make bench`: response times, as ratios to a bare view in the same process and to a round trip to the stand-in."""
