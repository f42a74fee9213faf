"""What a node can be told, where it is told it, and whether it makes sense."""

from aspen.config.cluster import DEFAULT_DNS_PORT as DEFAULT_DNS_PORT
from aspen.config.cluster import DEFAULT_ORIGIN as DEFAULT_ORIGIN
from aspen.config.cluster import DEFAULT_QUIC_PORT as DEFAULT_QUIC_PORT
from aspen.config.cluster import FROM_PROFILE as FROM_PROFILE
from aspen.config.cluster import SECRET_SETTINGS as SECRET_SETTINGS
from aspen.config.cluster import TIMINGS as TIMINGS
from aspen.config.cluster import CertMode as CertMode
from aspen.config.cluster import ClusterBootstrapConfig as ClusterBootstrapConfig
from aspen.config.cluster import ControlBackend as ControlBackend
from aspen.config.cluster import DnsServerConfig as DnsServerConfig
from aspen.config.cluster import HttpsConfig as HttpsConfig
from aspen.config.cluster import IrohConfig as IrohConfig
from aspen.config.cluster import LogFormat as LogFormat
from aspen.config.cluster import LogLevel as LogLevel
from aspen.config.cluster import Profile as Profile
from aspen.config.cluster import RelayMode as RelayMode
from aspen.config.cluster import expected as expected
from aspen.config.cluster import format_address as format_address
from aspen.config.cluster import is_address as is_address
from aspen.config.cluster import is_loopback as is_loopback
from aspen.config.cluster import parse_address as parse_address
from aspen.config.cluster import parse_peer as parse_peer
from aspen.config.cluster import parse_place as parse_place
from aspen.config.cluster import setting_types as setting_types
from aspen.config.cluster import settings as settings
