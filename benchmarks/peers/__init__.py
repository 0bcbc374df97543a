"""What runs in a process of its own, most of it in a virtual environment of its own: one script a peer.

A script reads its task as a line of JSON, warms up, and runs one repeat for each line that follows
(`talk.serve`). Nothing here imports Nightcast but what is named after it.
"""
