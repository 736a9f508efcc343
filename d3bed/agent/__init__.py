"""The process on a board. Imports torch; the server never imports this package."""

from d3bed.agent.settings import AgentSettings

__all__ = ["AgentSettings"]
