"""What carries a rival method out: the session of each way to merge tokens."""

from collections.abc import Mapping

from expedite.evaluate.comparators.base import RivalSession, UpsamplingSession
from expedite.evaluate.comparators.downsample import DownsampleSession
from expedite.evaluate.comparators.evit import EViTSession
from expedite.evaluate.comparators.pool import PoolSession
from expedite.evaluate.comparators.tome import ToMeSession
from expedite.evaluate.comparators.tome_blocks import BlockMergingSession
from expedite.evaluate.comparators.ways import Merge

SESSIONS: Mapping[Merge, type[RivalSession]] = {
    "clusters": UpsamplingSession,
    "pool": PoolSession,
    "tome": ToMeSession,
    "evit": EViTSession,
    "blocks": BlockMergingSession,
    "image": DownsampleSession,
}
