"""Rules of Cilium about requests on layer 7, which the lab reads and does not enforce.

Source: cilium/cilium pkg/policy/api/{http,kafka,l7,fqdn}.go (1.18).
"""

from __future__ import annotations

from kubenetlab.api.meta import Record, Unmodelled


class CiliumHTTPRule(Record, frozen=True):
    """HTTP requests that are allowed. Fields are regular expressions, combined by AND."""

    path: str = ""
    """Path of the URL. Empty: all."""
    method: str = ""
    """Method, such as GET. Empty: all."""
    host: str = ""
    """Header Host. Empty: all."""
    headers: tuple[str, ...] = ()
    """Headers that the request must have."""
    header_matches: Unmodelled = None


class CiliumKafkaRule(Record, frozen=True):
    """Kafka requests that are allowed. Fields are combined by AND."""

    role: str = ""
    """`produce` or `consume`, in place of `apiKey`."""
    api_version: str = ""
    """Version of the API. Empty: all."""
    api_key: str = ""
    """Type of the request. Empty: all."""
    client_id: str = ""
    """Name of the client. Empty: all."""
    topic: str = ""
    """Topic of the request. Empty: all."""


class CiliumDNSRule(Record, frozen=True):
    """Names that may be resolved, by exactly one field."""

    match_name: str = ""
    """A name, such as api.example.com."""
    match_pattern: str = ""
    """Pattern, as in `toFQDNs`; `*` alone means all names."""


class CiliumL7Rules(Record, frozen=True):
    """Requests that are allowed, of one protocol."""

    http: tuple[CiliumHTTPRule, ...] | None = None
    """HTTP requests."""
    kafka: tuple[CiliumKafkaRule, ...] | None = None
    """Kafka requests."""
    dns: tuple[CiliumDNSRule, ...] | None = None
    """DNS requests. Cilium learns the addresses for `toFQDNs` from their answers."""
    l7proto: str = ""
    """Name of another protocol, for `l7`."""
    l7: Unmodelled = None

    @property
    def protocols(self) -> tuple[str, ...]:
        """Fields with rules."""
        fields = {
            "http": self.http,
            "kafka": self.kafka,
            "dns": self.dns,
            "l7": self.l7,
            "l7proto": self.l7proto or None,
        }
        present = tuple(name for name, rules in fields.items() if rules is not None)
        # A protocol of a proxy, with or without rules about its requests.
        return tuple(name for name in present if name != "l7proto" or "l7" not in present)

    @property
    def allows_all_names(self) -> bool:
        """True for DNS rules that allow the resolution of every name."""
        return any(rule.match_pattern == "*" for rule in self.dns or ())
