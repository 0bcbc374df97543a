"""Read by every interpreter that starts with this folder on its path.

One that lives for seconds need not look for garbage while it imports: a fifth of the time that imports take.
"""

import gc

gc.set_threshold(50_000, 20, 100)
