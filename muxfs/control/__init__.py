"""How commands speak to the ends that run on this host: docs/control.md.

Rule: nothing here imports more than a little of the standard library, since
`muxfs stdio` starts for each connection. The serving side is in `muxfs/endpoint`.
"""
