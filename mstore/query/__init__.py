"""Queries over mapped segments: selector, metric and range in, Series out."""

from mstore.query.plan import Request
from mstore.query.reader import Reader

__all__ = ["Reader", "Request"]
