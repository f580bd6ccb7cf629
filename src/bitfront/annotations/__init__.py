"""Polygons, run lengths and boxes of labelling tools, and label maps: each made of the other."""
