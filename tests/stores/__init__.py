"""Real stores for tests, each on 127.0.0.1, and a proxy that lies about any of them.

| module | owns |
|---|---|
| `store` | what a `Store` is to a test, whichever server is behind it |
| `s3client` | what the stores that speak S3 have in common |
| `moto`, `s3rver` | S3: moto, which checks signatures, and s3rver, which ignores preconditions |
| `azurite` | Azure Blob Storage, with shared keys |
| `gcs` | Google Cloud Storage's XML interface, of our own: with etags, bearer tokens and requester pays |
| `nginx` | plain HTTP and HTTPS, static files |
| `sample` | a small repository on a store, with its sources on the same |
| `liar` | a reverse proxy that spoils chosen requests and replies, and counts them |
| `npm`, `programs` | programs that are installed and run for this |
"""
