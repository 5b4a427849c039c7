"""Gates: what a run must keep, judged from its rows or measured anew, and how well they see."""
