"""Self-signed certificate for localhost and its key.

agnhost's image has them as /localhost.crt and /localhost.key. The key is public and protects
nothing. The certificate names localhost, 127.0.0.1 and ::1, and is valid until 2120.
"""

from typing import Final

CERTIFICATE: Final = """\
-----BEGIN CERTIFICATE-----
MIIBeTCCAR+gAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABJsTN5phhuiyj+X1
ixaB2wQ43IYlow10/tYXUEqzP043iQw8E1TllWRctivQgKkDhXHFPxPvwJhOtrnq
/TBkN3qjYDBeMA8GA1UdEwEB/wQFMAMBAf8wLAYDVR0RBCUwI4IJbG9jYWxob3N0
hwR/AAABhxAAAAAAAAAAAAAAAAAAAAABMB0GA1UdDgQWBBQ2eoBs19yZbLJJhxDR
qg4WJRxGUDAKBggqhkjOPQQDAgNIADBFAiEAkD1bXVQsp5P1AK7oLUylVJS1zdwk
99BI/h0og8+OF4oCICEgf2OefscMMXPcgEElGuiBlve6HY4EZdxUHO2t306l
-----END CERTIFICATE-----
"""
KEY: Final = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgFiSZHHea2P/HUrFF
9H9tRhklxniWde7onS8Piq0DKO+hRANCAASbEzeaYYboso/l9YsWgdsEONyGJaMN
dP7WF1BKsz9ON4kMPBNU5ZVkXLYr0ICpA4VxxT8T78CYTra56v0wZDd6
-----END PRIVATE KEY-----
"""
