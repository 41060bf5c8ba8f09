"""What a host of one's own is said with, see docs/hosts.md; it lives where patching needs it."""

from expedite.patching.host import Host, Mask, Method, Reads, TokenHead, map_grid, map_of_tokens

__all__ = ["Host", "Mask", "Method", "Reads", "TokenHead", "map_grid", "map_of_tokens"]
