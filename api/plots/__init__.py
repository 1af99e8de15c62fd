"""Figures of jobs, drawn by matplotlib from what the API says.

Words, marks and definitions are those of the page's charts. Knows neither clients nor displays. `segments`, `found` and
`files` do not import matplotlib, which the extra `plot` installs.
"""
