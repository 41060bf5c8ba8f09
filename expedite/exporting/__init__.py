"""A model as one file that other programs run."""

from expedite.exporting.exporting import Export, export

__all__ = ["Export", "export"]
