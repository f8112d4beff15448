"""`make bench`: what a request costs, as ratios to a bare view in the same process and to the stand-in itself."""
