"""Long looks at a mount while everything breaks: `make stress`, and a model that steps are held against.

`run` has many readers over servers that lie, and asks at the end whether every error had a cause.
`machine` takes one step at a time, of any kind, and knows after each what may be read.
"""
