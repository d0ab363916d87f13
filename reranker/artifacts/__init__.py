"""What a training leaves → its folder, and the adapter that others load: written whole, and checked when it is read.

Knows configurations and figures; builds no model and reads no data.
"""
