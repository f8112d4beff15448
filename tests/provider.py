"""A token provider of the tests: its keys, and tokens that it signs."""

import time
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ISSUER, AUDIENCE, SUBJECT = "https://provider.example", "recoup", "did:provider:alice"
JWKS_URL = "https://provider.example/.well-known/jwks.json"
EC_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED_KEY = ed25519.Ed25519PrivateKey.generate()
PEM = serialization.PublicFormat.SubjectPublicKeyInfo
EC_PEM = EC_KEY.public_key().public_bytes(serialization.Encoding.PEM, PEM).decode()


def jwk(key: Any, algorithm: str, key_id: str) -> dict[str, Any]:
    public: Any = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**public, "kid": key_id, "use": "sig", "alg": algorithm}


JWKS = {"keys": [jwk(EC_KEY, "ES256", "ec"), jwk(RSA_KEY, "RS256", "rsa"), jwk(ED_KEY, "EdDSA", "ed")]}


def claims(**changes: Any) -> dict[str, Any]:
    """Valid claims with changes. A change to None removes the claim."""
    now = int(time.time())
    values = {"iss": ISSUER, "aud": AUDIENCE, "sub": SUBJECT, "iat": now, "exp": now + 600, **changes}
    return {name: value for name, value in values.items() if value is not None}


def token(key: Any = EC_KEY, algorithm: str = "ES256", key_id: str | None = "ec", **changes: Any) -> str:
    headers = {"kid": key_id} if key_id is not None else {}
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=headers)
