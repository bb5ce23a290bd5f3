"""Speed and size, side by side with their budgets: `make bench`.

Each benchmark measures in one run, on a stack of its own in a temporary folder on free ports,
with the commands a user would type, and hands back figures. Nothing is tried again, left out
or averaged away: a number is what was measured, on the machine that is printed above it. It
touches that folder and bench-results/, and never a stack that runs already.
"""
