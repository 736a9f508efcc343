"""Tensors between agents: raw TCP links, one per direction, shaped where emulation asks for it."""

from d3bed.net.codec import PIECE_BYTES, Limits, TensorMessage
from d3bed.net.listener import Listener
from d3bed.net.probe import Probe
from d3bed.net.relay import Relay, call, wanted
from d3bed.net.sender import DIAL_S, Sender
from d3bed.net.shaping import Pacing
from d3bed.net.sockets import new_event_loop, parse_address
from d3bed.net.tc import TrafficControl
from d3bed.net.tls import LinkTls

__all__ = [
    "DIAL_S",
    "PIECE_BYTES",
    "Limits",
    "LinkTls",
    "Listener",
    "Pacing",
    "Probe",
    "Relay",
    "Sender",
    "TensorMessage",
    "TrafficControl",
    "call",
    "new_event_loop",
    "parse_address",
    "wanted",
]
