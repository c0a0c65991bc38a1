"""What a run says about itself: its log, its progress on the screen, its hardware.

Imports no other package of ours.
"""
