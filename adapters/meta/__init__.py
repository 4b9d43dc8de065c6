"""What Meta's platforms have in common: the handshake, the signature, the Graph API's answers."""
