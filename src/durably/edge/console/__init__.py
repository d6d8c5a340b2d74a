"""The web console: pages that show what executions do, and forms that act on them.

Rule 1: nothing is decided here: a page asks the RPCs that clients ask, and shows their answers.
Rule 2: what comes from outside is escaped by the templates, always, and no script or style is inline.
Rule 3: a page reads a bounded part of anything: a page of rows, a page of events, the head of a payload.
"""
