"""The proxy between this process and a URL, by HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY."""

from base64 import b64encode
from contextlib import suppress
from ipaddress import ip_address, ip_network
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass


class ProxyError(OSError):
    """A proxy that cannot be used, or does not let the connection through. Its text holds no secret."""


def proxy_for(url: SplitResult) -> SplitResult | None:
    """The proxy's URL; None if there is to be none.

    Raises:
        ProxyError: The proxy is of a kind that is not supported.
    """
    proxies = getproxies()
    address = proxies.get(url.scheme) or proxies.get("all")
    host = url.hostname or ""
    if not address or proxy_bypass(f"{host}:{url.port}" if url.port else host) or _in_network(host, proxies):
        return None
    proxy = urlsplit(address if "://" in address else f"http://{address}")
    if proxy.scheme != "http" or not proxy.hostname:
        message = f"a proxy must be http://HOST:PORT, not {proxy.scheme}"
        raise ProxyError(message)
    return proxy


def basic_authorization(url: SplitResult) -> str | None:
    """The header's value for user and password in a URL."""
    if url.username is None:
        return None
    pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
    return "Basic " + b64encode(pair.encode()).decode()


def _in_network(host: str, proxies: dict[str, str]) -> bool:
    """NO_PROXY=10.0.0.0/8, which the standard library does not know."""
    with suppress(ValueError):
        address = ip_address(host)
        for pattern in proxies.get("no", "").split(","):
            with suppress(ValueError):
                if "/" in pattern and address in ip_network(pattern.strip(), strict=False):
                    return True
    return False
