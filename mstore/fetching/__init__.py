"""The batch request of ClusterCockpit's metric store, and its answer, as values: no store and no socket.

request.py  FetchRequest: the JSON shape, checked
answer.py   Fetched: a row of BatchSeries a query; the JSON shape again
packed.py   Packed: thousands of series in a few flat arrays, in memory and in messages
"""
