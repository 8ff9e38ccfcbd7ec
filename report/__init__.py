"""A page of one or several runs; see page.py."""
