from tests.leaderboard.conftest import _workshop, shop

__all__ = ["_workshop", "shop"]
