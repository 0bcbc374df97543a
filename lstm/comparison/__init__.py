"""Networks compared on one data set: measured, judged on the same windows, and one recommended in words."""
