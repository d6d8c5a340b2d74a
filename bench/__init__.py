"""Benchmarks: the same load, worker and client code against `durably serve` and Temporal's dev server.

Rule 1: both servers keep their state in an SQLite file on the same disk, fresh for every load.
Rule 2: whatever is measured on one is measured on the other in the same run, in turn, so that a
slow or busy machine weighs on both; ratios are what to quote.
Rule 3: the worker is a process of its own and the client is another, so a server's CPU is its own.

`python -m bench --help` lists the options. Nothing here is part of the installed package.
"""
