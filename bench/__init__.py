"""Benchmarks: the product beside an honest plain loop that does the same work in the same run.

python -m bench            every figure; minutes
python -m bench P1 P4      some of them
python -m bench --tiny     tiny sizes, to see that everything still runs
"""
