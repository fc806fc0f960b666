"""Does it reproduce, and does it belong together?"""
