"""Whether a challenger becomes the champion, and the record of every decision."""
