"""The server's side of TLS: which versions and which certificate."""

import ssl


def load(certificate: str, key: str | None) -> ssl.SSLContext:
    """A context with the certificate chain and the private key in these PEM files (`key` None: both in one).

    TLS 1.2 and later, forward secrecy, no renegotiation: Python's own defaults for servers. Raises OSError,
    ssl.SSLError (an OSError) among them, with a text for the operator. Blocks.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    # An encrypted key would make OpenSSL ask on the terminal, and hold everything until somebody answers.
    context.load_cert_chain(certificate, key, password="")
    return context
