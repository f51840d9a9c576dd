"""What reverse proxies, CDNs, tunnels and login gates add about a client, by the names of headers.

It was meant for this server, and ends here: no provider gets it. What tells who or where somebody
is, or proves it, is masked in captures as well; what proves it is a credential like any other.

Each of them has names of its own, so they are told by families: whose they are, and what is in
them. None may take in a header that clients send to providers (``x-goog-user-project``,
``cf-aig-authorization``, ``x-client-request-id``, …); the tests have a list of those.
"""

from __future__ import annotations

import functools
import re
from enum import Enum

LONGEST = 64
"""Characters of a name; all that are in use are shorter, and clients may send others."""


class Kind(Enum):
    """What is in such a header."""

    CREDENTIAL = "proves who somebody is, or lets in"
    PERSONAL = "tells who or where somebody is"
    ROUTING = "tells how a request came here"


def _names(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns))


_CREDENTIALS = _names(
    r"(?:.*-)?(?:jwt|assertion)(?:-.*)?",  # Cloudflare, Google, Teleport, Pomerium, Authentik, …
    r"x-amzn-oidc-data|.*-accesstoken|.*forwarded-access-token",
    r"x-amzn-(?:request|lambda)-context|x-apigateway-(?:event|context)",  # all of a request
    r"x-(?:access|id|identity|refresh|ip)-token|iv-creds|fastly-key",
    r"(?:x-endpoint-api-|x-apigateway-api-|sec-istio-auth-|x-)?userinfo",
    r"x-ms-client-principal|x-ms-token-.*|x-ms-auth-token|x-zumo-auth|x-tunnel-authorization",
    r"x-serverless-authorization|x-pomerium-authorization|cf-access-client-(?:id|secret)",
    r"x-vercel-(?:oidc-token|sc-headers|proxy-signature)|fly-src-signature|gap-signature",
    # Certificates of clients: RFC 9440, nginx, HAProxy, Envoy, Traefik, Azure, AWS
    r"(?:x-)?(?:forwarded-)?(?:tls-|arr-)?client-?cert(?:ificate)?(?:-.*)?",
    r"(?:x-)?(?:arr-|ssl-).*cert.*|x-amzn-mtls-.*",
)

_PERSONAL = _names(
    # Addresses, whoever says them
    r"(?:.*-)?(?:client|real|remote|socket|source|user|peer|origin)?ip(?:v[46])?(?:-addr(?:ess)?)?",
    r"(?:.*-)?(?:client|remote|peer|external|source|viewer|real|socket)-?(?:addr(?:ess)?|port)",
    r"(?:x-)?geo(?:ip)?-.*|x-client-(?:asn|city|country|dn|geo|location|region|verify)(?:-.*)?",
    r"x-country(?:-code)?|(?:x-)?ja[34](?:-.*)?",
    # Identities
    r"(?:x-)?(?:remote|sso|oidc|saml|shib|mellon|webauth|vouch|authentik|pomerium|teleport)-.*",
    r"x-auth-(?!token$|key$).*|x-authenticated-.*|(?:x-)?tailscale-.*|x-warpgate-.*",
    r"x-(?:proxy-|proxied-|grafana-|token-)?user(?:-?(?:claims|e?mail|groups?|login|name|roles?))?",
    r"x-(?:claims?|e?mail|groups|login|preferred-username|principal|roles|token-subject)",
    r"x-(?:consumer|credential|anonymous-consumer)(?:-.*)?|x-rsc-.*|(?:iv|oam)-.*|sm-?user.*",
    r"x-goog-(?:iap|authenticated)-.*|x-ms-client-principal-.*|ngrok-auth-.*|gap-auth",
    r"x-amzn-(?:oidc|ava|cognito)-.*|x-wx-.*|(?:x-)?(?:ssl|tls|mtls)-.*",
)

_FRONTS = _names(
    r".*forwarded.*|x-original-.*|x-rewrite-url|x-ms-original-url|x-ingress-path",
    r"(?:x-)?akamai-.*|ali-(?:cdn|swift)-.*|eagleeye-.*|(?:x-)?incap-.*|x-sucuri-.*|(?:x-)?fastly-.*",
    r"cf-(?!aig-).*|cdn-(?!loop$).*|cloudfront-.*|eo-(?:client|connecting|log)-.*",
    r"x-amz-cf-.*|x-amzn-(?:apigateway|remapped|tls|vpce?|waf)-.*|x-apigateway-.*",
    r"x-appengine-.*|x-gfe-.*|x-google-apps-metadata|x-endpoint-api-.*",
    r"x-(?:appgw|appservice|arr|azure|fd|k8se|ms-containerapp|waws|zumo)-.*|disguised-host",
    r"was-default-hostname|x-site-deployment-id",
    r"fly-(?!force-|prefer-).*|do-connecting-.*|rndr-.*|render-proxy-.*|(?:x-)?railway-.*|x-heroku-.*",
    r"x-vercel-(?!ai-).*|x-now-.*|x-nf-.*|x-bb-(?:ip|client-.*)|netlify-.*",
    r"x-envoy-(?!upstream-|max-|retry-|hedge-).*|x-(?:hass|istio|kong|traefik)-.*|wl-proxy-.*|x-varnish|surrogate-capability",
)
"""Those who stand in front: all that begins with their names."""

_ROUTING = re.compile(
    r"(?:.*-)?forwarded-(?:by|host|method|path|port|prefix|proto(?:col)?|scheme|server|ssl|uri)"
    r"|x-original-(?:host|method|path|proto|ur[il])"
)
"""Names among those that tell nothing about anybody, and much to who sets up a reverse proxy."""


def kind_of(name: str) -> Kind | None:
    """Return what is in a header, None for one that no front proxy adds.

    :param name: in lower case with hyphens
    """
    return _kind_of(name) if len(name) <= LONGEST else None


@functools.lru_cache(1024)
def _kind_of(name: str) -> Kind | None:
    if _CREDENTIALS.fullmatch(name):
        return Kind.CREDENTIAL
    if _ROUTING.fullmatch(name):
        return Kind.ROUTING
    return Kind.PERSONAL if _PERSONAL.fullmatch(name) or _FRONTS.fullmatch(name) else None
