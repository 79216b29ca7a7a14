"""A mixture of experts without a router: each token goes to the nearest centroids of the ball."""

from physnet.moe._apply import apply as apply
from physnet.moe._ball import ball_expert as ball_expert
from physnet.moe._load import Load as Load
from physnet.moe._load import load as load
from physnet.moe._route import Routing as Routing
from physnet.moe._route import gate as gate
from physnet.moe._route import route as route
